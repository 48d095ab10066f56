-- Does what has come due: queued jobs whose next try or earliest start has come, and those that have expired.
-- ARGV: limit
-- Returns {kind, id, ...} in pairs; kind is 'queued' (a message has to be sent) or 'expired'.
local limit = ARGV[1]
local t = now()
local acts = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key_expiring(), '-inf', t, 'LIMIT', 0, limit)) do
  redis.call('ZREM', key_expiring(), id)
  to_end(id, 'cancelled', '', 'expired before it ran')
  acts[#acts + 1] = 'expired'
  acts[#acts + 1] = id
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key_due(), '-inf', t, 'LIMIT', 0, limit)) do
  redis.call('ZREM', key_due(), id)
  enter_queue(id)
  redis.call('HSET', key_job(id), 'queued_at', whole(t))
  acts[#acts + 1] = 'queued'
  acts[#acts + 1] = id
end
return acts
