-- Puts a job that ended in 'error' or 'cancelled' back to its queue, for a person. Its limits begin anew.
-- ARGV: id, retry_token
-- Returns {'queued', field, value, ...}: a message has to be sent; {'refused'}: its state forbids it; {'unknown'}.
-- Repeated under its retry_token it answers 'queued' again, as long as the job is queued.
local id, retry_token = ARGV[1], ARGV[2]
local v = redis.call('HMGET', key_job(id), 'status', 'deleted', 'requeue_token')
if not v[1] or v[2] then return {'unknown'} end
if v[1] == 'queued' and v[3] == retry_token then return answer_record('queued', id) end
if v[1] ~= 'error' and v[1] ~= 'cancelled' then return {'refused'} end
redis.call('HDEL', key_job(id), 'task_output', 'error_message', 'finished_at', 'crashes', 'leases_lost', 'failures',
  'expires_at')
redis.call('ZREM', key_finished(), id)
redis.call('HINCRBY', key_job(id), 'retries', 1)
redis.call('HSET', key_job(id), 'requeue_token', retry_token)
to_queued(id)
enter_queue(id)
return answer_record('queued', id)
