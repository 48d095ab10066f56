-- Puts a job that an owner runs back to its queue.
-- ARGV: id, requeue_token, node, process, cause ('released' or 'crashed'), detail, max_crashes
-- Returns {'queued', field, value, ...}: a message has to be sent; {'ended'}; {'deleted'}; {'lost'}: not its run.
-- Repeated under its requeue_token it answers 'queued' again, as long as the job is queued.
local id, requeue_token, node, process, cause, detail, max_crashes = unpack(ARGV)
local function queued()
  local record = redis.call('HGETALL', key_job(id))
  table.insert(record, 1, 'queued')
  return record
end
local v = redis.call('HMGET', key_job(id), 'status', 'node', 'process', 'deleted', 'cancel_requested', 'requeue_token')
if v[1] == 'queued' and v[6] == requeue_token then return queued() end
if v[1] ~= 'processing' or v[2] ~= node or v[3] ~= process then return {'lost'} end
if v[4] then
  remove(id)
  return {'deleted'}
end
if cause ~= 'released' then remember_end(id, cause, detail) end
if v[5] then
  to_end(id, 'cancelled', '', 'cancelled while it ran')
  return {'ended'}
end
if cause == 'crashed' then
  local crashes = redis.call('HINCRBY', key_job(id), 'crashes', 1)
  if crashes >= tonumber(max_crashes) then
    to_end(id, 'error', '', 'The process that ran this job died ' .. crashes .. ' times; the limit is '
      .. max_crashes .. '. Last: ' .. detail)
    return {'ended'}
  end
end
to_queue(id)
redis.call('HSET', key_job(id), 'requeue_token', requeue_token)
return queued()
