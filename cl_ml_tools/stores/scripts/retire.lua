-- Removes the records of jobs that ended long ago.
-- ARGV: retention_ms, limit
-- Returns their ids; their files are to be removed.
local limit = ARGV[2]
local ids = redis.call('ZRANGEBYSCORE', key_finished(), '-inf', now() - ARGV[1], 'LIMIT', 0, limit)
for _, id in ipairs(ids) do remove(id) end
return ids
