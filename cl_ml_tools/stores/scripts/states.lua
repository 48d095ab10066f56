-- Tells how jobs stand, those that are deleted but still run among them. Changes nothing.
-- ARGV: ids
-- Returns the status of each, '' where there is no record.
local states = {}
for i, id in ipairs(ARGV) do states[i] = redis.call('HGET', key_job(id), 'status') or '' end
return states
