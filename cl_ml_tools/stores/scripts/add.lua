-- Accepts a job: record, indexes, place in its line.
-- ARGV: id, add_token, not_after_ms, task_type, params (JSON), priority, created_by ('' = nobody),
--   not_before_ms, expires_ms ('' = none), submission ('' = none: else what is remembered), fingerprint, remembered_ms
-- Returns {'added', sequence (0 = no message is to be sent yet), now_ms}; {'exists', 0, now_ms} for another add's id; {'late', 0, now_ms};
--   {'repeated', 0, now_ms, first_id} or {'conflict', 0, now_ms, first_id} when the submission is known, with this
--   fingerprint or another.
-- Repeated under its add_token it answers 'added' again.
local id, add_token, not_after, task_type, params, priority, created_by, not_before, expires, submission,
  fingerprint, remembered_ms = unpack(ARGV)
local t = now()
if redis.call('EXISTS', key_job(id)) == 1 then
  local v = redis.call('HMGET', key_job(id), 'add_token', 'sequence')
  if v[1] == add_token then return {'added', tonumber(v[2] or 0), t} end
  return {'exists', 0, t}
end
if t > tonumber(not_after) then return {'late', 0, t} end
if submission ~= '' then
  local known, first = string.match(redis.call('GET', key_submission(submission)) or '', '^(%x+):(.+)$')
  local v = first and redis.call('HMGET', key_job(first), 'status', 'deleted')
  if v and v[1] and not v[2] then return {known == fingerprint and 'repeated' or 'conflict', 0, t, first} end
  redis.call('SET', key_submission(submission), fingerprint .. ':' .. id, 'PX', remembered_ms)
end
redis.call('HSET', key_job(id), 'task_type', task_type, 'params', params, 'status', 'queued', 'progress', '0',
  'priority', priority, 'attempt', '0', 'created_at', whole(t), 'add_token', add_token)
redis.call('ZADD', key_jobs(), t, id)
redis.call('ZADD', key_status('queued'), t, id)
redis.call('ZADD', key_type(task_type), t, id)
if created_by ~= '' then
  redis.call('HSET', key_job(id), 'created_by', created_by)
  redis.call('ZADD', key_creator(created_by), t, id)
end
if expires ~= '' then
  redis.call('HSET', key_job(id), 'expires_at', expires)
  redis.call('ZADD', key_expiring(), expires, id)
end
local sequence = 0
if not_before ~= '' and tonumber(not_before) > t then
  wait_until_due(id, tonumber(not_before))
else
  sequence = enter_queue(id)
end
emit(id, 'queued', '0')
return {'added', sequence, t}
