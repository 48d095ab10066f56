-- Cancels a job: a queued one at once, a running one by asking its run to stop.
-- ARGV: id
-- Returns 'cancelled' (at its end now), 'stopping' (the run is asked), 'ended' (was at its end) or 'unknown'.
local id = ARGV[1]
local v = redis.call('HMGET', key_job(id), 'status', 'deleted')
if not v[1] or v[2] then return 'unknown' end
if v[1] == 'queued' then
  to_end(id, 'cancelled', '', 'cancelled before it ran')
  return 'cancelled'
end
if v[1] == 'processing' then
  redis.call('HSET', key_job(id), 'cancel_requested', '1')
  return 'stopping'
end
-- A cancel that is repeated after a lost reply meets its own work.
return v[1] == 'cancelled' and 'cancelled' or 'ended'
