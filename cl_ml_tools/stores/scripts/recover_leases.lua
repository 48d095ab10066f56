-- Takes jobs back whose leases have ended.
-- ARGV: lease_ms, max_leases_lost, limit
-- Returns {kind, id, ...} in pairs; kind is 'queued' (a message has to be sent), 'error', 'cancelled', or
-- 'deleted' (its record is gone now, its files are to be removed).
local lease_ms, max_leases_lost, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local t = now()
note_beat(t, lease_ms)
local acts = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key_leases(), '-inf', t, 'LIMIT', 0, limit)) do
  local v = redis.call('HMGET', key_job(id), 'deleted', 'cancel_requested', 'node', 'process')
  local kind
  if v[1] then
    remove(id)
    kind = 'deleted'
  else
    remember_end(id, 'lost', 'its lease ended')
    if v[2] then
      to_end(id, 'cancelled', '', 'cancelled while it ran')
      kind = 'cancelled'
    elseif redis.call('HINCRBY', key_job(id), 'leases_lost', 1) >= max_leases_lost then
      to_end(id, 'error', '', 'The node that ran this job was lost ' .. max_leases_lost .. ' times, which is the limit.')
      kind = 'error'
    else
      to_queued(id)
      enter_queue(id)
      kind = 'queued'
    end
  end
  acts[#acts + 1] = kind
  acts[#acts + 1] = id
end
return acts
