-- Notes which task types a node serves from now on, for a time.
-- ARGV: node, lifetime_ms, task types
-- What the node said before and does not say now ends. Returns nothing.
local node, lifetime_ms = ARGV[1], tonumber(ARGV[2])
local t = now()
local said = {}
local stale = redis.call('ZRANGEBYSCORE', key_serving(), '-inf', t)
for _, member in ipairs(redis.call('ZRANGE', key_serving(), 0, -1)) do
  if string.sub(member, 1, #node + 1) == node .. ' ' then
    stale[#stale + 1] = member
    said[string.sub(member, #node + 2)] = true
  end
end
for _, member in ipairs(stale) do redis.call('ZREM', key_serving(), member) end
local served = {}
for _, member in ipairs(redis.call('ZRANGE', key_serving(), 0, -1)) do
  served[string.sub(member, string.find(member, ' ', 1, true) + 1)] = true
end
for i = 3, #ARGV do
  if not served[ARGV[i]] and not said[ARGV[i]] then
    -- Nobody served it: recovery asks for its lost messages at ever longer intervals, and begins anew now.
    for priority = 0, 10 do redis.call('HDEL', key_watched(), ARGV[i] .. ':' .. priority) end
  end
  redis.call('ZADD', key_serving(), t + lifetime_ms, node .. ' ' .. ARGV[i])
end
if redis.call('EXISTS', key_serving()) == 1 then redis.call('PEXPIRE', key_serving(), lifetime_ms) end
