-- Tells which jobs there are, those that are deleted but still run among them. Changes nothing.
-- ARGV: ids
-- Returns 1 or 0 for each.
local answers = {}
for i, id in ipairs(ARGV) do answers[i] = redis.call('EXISTS', key_job(id)) end
return answers
