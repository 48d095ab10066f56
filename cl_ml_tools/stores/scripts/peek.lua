-- Which task types have queued jobs.
-- ARGV: task types
-- Returns those with queued jobs, the one with the most urgent job first. Changes nothing.
local found, order = {}, {}
for priority = 10, 0, -1 do
  for _, task_type in ipairs(ARGV) do
    if not found[task_type] and redis.call('ZCARD', key_queued(task_type .. ':' .. priority)) > 0 then
      found[task_type] = true
      order[#order + 1] = task_type
    end
  end
end
return order
