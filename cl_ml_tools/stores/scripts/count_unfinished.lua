-- How many jobs of a creator are queued or run. Changes nothing. Takes time by the fewer: the creator's jobs or those.
-- ARGV: creator
-- Returns the number.
local count = 0
for _, status in ipairs({'queued', 'processing'}) do
  count = count + #redis.call('ZINTER', 2, key_creator(ARGV[1]), key_status(status))
end
return count
