-- Ends the run of a job that an owner has, and puts the job back to its queue or, at a limit, to its end.
-- ARGV: id, requeue_token, node, process, token ('' = whatever run of the job the owner has), cause, detail,
--   limit, delay_ms, sequence (of the delivered message; 0 = not known)
-- cause: 'released' counts nothing; 'crashed' counts a crash, 'failed' a failed try, each up to its limit;
--   'timed_out' is final.
-- Returns {'queued', field, value, ...}: a message has to be sent; {'waiting'}: it is sent when due; {'ended'};
--   {'cancelled'}: it had to stop anyway; {'deleted'}; {'lost'}: not its run. Repeated under its requeue_token it answers 'queued' again, as long as the
--   job is queued.
local id, requeue_token, node, process, token, cause, detail, limit, delay_ms, sequence = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'node', 'process', 'token', 'deleted', 'cancel_requested',
  'requeue_token', 'sequence')
if v[1] == 'queued' and v[7] == requeue_token then
  return redis.call('ZSCORE', key_due(), id) and {'waiting'} or answer_record('queued', id)
end
-- A process that dies between a delivery and its claim has used up the message: that crash counts too.
local unclaimed = cause == 'crashed' and v[1] == 'queued' and sequence ~= '0' and v[8] == sequence
  and not redis.call('ZSCORE', key_due(), id)
if unclaimed then
  remember_end(id, cause, detail)
  local crashes = redis.call('HINCRBY', key_job(id), 'crashes', 1)
  if crashes >= tonumber(limit) then
    to_end(id, 'error', '', crashed_too_often(crashes, limit, detail))
    return {'ended'}
  end
  redis.call('HSET', key_job(id), 'requeue_token', requeue_token)
  enter_queue(id)
  return answer_record('queued', id)
end
if v[1] ~= 'processing' or v[2] ~= node or v[3] ~= process or (token ~= '' and v[4] ~= token) then return {'lost'} end
if v[5] then
  remove(id)
  return {'deleted'}
end
if v[6] then
  -- However it ended: most often its process was killed because it did not stop.
  to_end(id, 'cancelled', '', 'cancelled while it ran')
  return {'cancelled'}
end
local function ended(message)
  to_end(id, 'error', '', message)
  return {'ended'}
end
if cause ~= 'released' then remember_end(id, cause, detail) end
if cause == 'timed_out' then return ended(detail) end
if cause == 'crashed' then
  local crashes = redis.call('HINCRBY', key_job(id), 'crashes', 1)
  if crashes >= tonumber(limit) then
    return ended(crashed_too_often(crashes, limit, detail))
  end
elseif cause == 'failed' then
  if redis.call('HINCRBY', key_job(id), 'failures', 1) > tonumber(limit) then return ended(detail) end
end
redis.call('HSET', key_job(id), 'requeue_token', requeue_token)
to_queued(id)
if tonumber(delay_ms) > 0 then
  wait_until_due(id, now() + delay_ms)
  return {'waiting'}
end
enter_queue(id)
return answer_record('queued', id)
