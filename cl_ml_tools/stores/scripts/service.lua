-- Tells who serves what, and how long jobs wait. Changes nothing.
-- ARGV: max_looked_at
-- Returns {oldest_ms (since when the oldest job waits that may start, '' = none), '<node> <task_type>', ...}.
local t = now()
local answer = {''}
for _, id in ipairs(redis.call('ZRANGE', key_status('queued'), 0, ARGV[1] - 1)) do
  if not redis.call('ZSCORE', key_due(), id) then
    answer[1] = whole(t - redis.call('HGET', key_job(id), 'created_at'))
    break
  end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', key_serving(), t, '+inf')) do answer[#answer + 1] = member end
return answer
