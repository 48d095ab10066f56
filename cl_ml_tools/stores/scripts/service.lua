-- Tells who serves what, and how long jobs wait. Changes nothing.
-- Returns {oldest_ms (how long the oldest job waits that may start, '' = none), '<node> <task_type>', ...}.
local t = now()
local since
for _, line in ipairs(redis.call('SMEMBERS', key_lines())) do
  local first = redis.call('ZRANGE', key_queued(line), 0, 0)[1]
  if first then
    local v = redis.call('HMGET', key_job(first), 'queued_at', 'created_at')
    since = math.min(since or t, tonumber(v[1] or v[2]))
  end
end
local answer = {since and whole(t - since) or ''}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', key_serving(), t, '+inf')) do answer[#answer + 1] = member end
return answer
