-- Removes a job; one that runs is hidden at once, and removed when its run has stopped.
-- ARGV: id
-- Returns 'deleted', 'hidden' or 'unknown'.
local id = ARGV[1]
local v = redis.call('HMGET', key_job(id), 'status', 'deleted', 'progress')
if not v[1] or v[2] then return 'unknown' end
if v[1] ~= 'processing' then
  remove(id)
  return 'deleted'
end
remove_from_indexes(id)
emit(id, v[1], v[3], true)
redis.call('HSET', key_job(id), 'deleted', '1', 'cancel_requested', '1')
return 'hidden'
