-- Gives a queued job to an owner.
-- ARGV: id, token, node, process, sequence (of the message; 0 = none), lease_ms, max_crashes, not_after_ms
-- Returns {'claimed', field, value, ...}, {refusal}, or {'late', now_ms}: a hung server does not claim for who gave up.
-- Repeated under its token it answers 'claimed' again, as long as the claim is the job's.
local id, token, node, process, sequence, lease_ms, max_crashes, not_after = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'token', 'deleted', 'crashes', 'expires_at', 'attempt')
local status = v[1]
if not status then return {'unknown'} end
local line = line_of(id)
if tonumber(sequence) > tonumber(redis.call('HGET', key_seen(), line) or 0) then
  redis.call('HSET', key_seen(), line, sequence)
end
if v[3] then return {'unknown'} end
if status == 'processing' then
  if v[2] == token then return answer_record('claimed', id) end
  return {'held'}
end
local t = now()
if t > tonumber(not_after) then return {'late', t} end
if status == 'cancelled' then return {'cancelled'} end
if status ~= 'queued' then return {'done'} end
if v[5] and v[6] == '0' and tonumber(v[5]) <= t then
  to_end(id, 'cancelled', '', 'expired before it ran')
  return {'cancelled'}
end
local due_at = redis.call('ZSCORE', key_due(), id)
if due_at and tonumber(due_at) > t then return {'early'} end
if tonumber(v[4] or 0) >= tonumber(max_crashes) then
  to_end(id, 'error', '', 'The process that ran this job died ' .. v[4] .. ' times; the limit is ' .. max_crashes .. '.')
  return {'given_up'}
end
leave_queue(id)
redis.call('HINCRBY', key_job(id), 'attempt', 1)
redis.call('HSET', key_job(id), 'status', 'processing', 'progress', '0', 'token', token, 'node', node,
  'process', process, 'started_at', whole(t))
redis.call('ZADD', key_leases(), t + lease_ms, id)
move_status(id, 'queued', 'processing')
emit(id, 'processing', '0')
return answer_record('claimed', id)
