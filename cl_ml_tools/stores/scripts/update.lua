-- Changes a job that nobody has claimed.
-- ARGV: id, update_token, status ('' = as it is, else terminal), progress ('' = as it is), task_output ('' = none),
--   error_message
-- Returns 1, or 0 when there is no such job or it is not queued. Repeated under its update_token it answers 1 again.
local id, update_token, status, progress, output, message = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'deleted', 'update_token')
if v[3] == update_token then return 1 end
if v[1] ~= 'queued' or v[2] then return 0 end
redis.call('HSET', key_job(id), 'update_token', update_token)
if progress ~= '' then redis.call('HSET', key_job(id), 'progress', progress) end
if status ~= '' then
  to_end(id, status, output, message)
  return 1
end
if output ~= '' then redis.call('HSET', key_job(id), 'task_output', output) end
if message ~= '' then redis.call('HSET', key_job(id), 'error_message', message) end
emit(id, 'queued', redis.call('HGET', key_job(id), 'progress'))
return 1
