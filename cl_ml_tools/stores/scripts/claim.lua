-- Gives a queued job to an owner.
-- ARGV: id, token, node, process, sequence (of the message; 0 = none), lease_ms, max_crashes
-- Returns {'claimed', field, value, ...} or {refusal}.
-- Repeated under its token it answers 'claimed' again, as long as the claim is the job's.
local id, token, node, process, sequence, lease_ms, max_crashes = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'task_type', 'priority', 'token', 'deleted', 'due', 'crashes')
local status = v[1]
if not status then return {'unknown'} end
local line = v[2] .. ':' .. v[3]
if tonumber(sequence) > tonumber(redis.call('HGET', key_seen(), line) or 0) then
  redis.call('HSET', key_seen(), line, sequence)
end
if v[5] then return {'unknown'} end
local function claimed()
  local record = redis.call('HGETALL', key_job(id))
  table.insert(record, 1, 'claimed')
  return record
end
if status == 'processing' then
  if v[4] == token then return claimed() end
  return {'held'}
end
if status == 'cancelled' then return {'cancelled'} end
if status ~= 'queued' then return {'done'} end
local t = now()
if v[6] and tonumber(v[6]) > t then return {'early'} end
if tonumber(v[7] or 0) >= tonumber(max_crashes) then
  to_end(id, 'error', '', 'The process that ran this job died ' .. v[7] .. ' times; the limit is ' .. max_crashes .. '.')
  return {'given_up'}
end
leave_queue(id)
redis.call('HINCRBY', key_job(id), 'attempt', 1)
redis.call('HSET', key_job(id), 'status', 'processing', 'progress', '0', 'token', token, 'node', node,
  'process', process, 'started_at', whole(t))
redis.call('ZADD', key_leases(), t + lease_ms, id)
move_status(id, 'queued', 'processing')
emit(id, 'processing', '0')
return claimed()
