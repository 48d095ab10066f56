-- Changes a job that nobody has claimed.
-- ARGV: id, status ('' = as it is, else terminal), progress ('' = as it is), task_output ('' = none), error_message
-- Returns 1, or 0 when there is no such job or it is not queued.
local id, status, progress, output, message = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'deleted')
if v[1] ~= 'queued' or v[2] then return 0 end
if progress ~= '' then redis.call('HSET', key_job(id), 'progress', progress) end
if status ~= '' then
  to_end(id, status, output, message)
  return 1
end
if output ~= '' then redis.call('HSET', key_job(id), 'task_output', output) end
if message ~= '' then redis.call('HSET', key_job(id), 'error_message', message) end
emit(id, 'queued', redis.call('HGET', key_job(id), 'progress'))
return 1
