-- Stores the outcome of a run and ends its claim.
-- ARGV: id, token, status (terminal), task_output (JSON or ''), error_message ('' = none)
-- Returns 'stored', 'lost' or 'deleted'. Repeated under its token it answers the same again.
local id, token, status, output, message = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'token', 'deleted')
if not v[1] then return 'deleted' end
if v[2] ~= token then return 'lost' end
if v[1] ~= 'processing' then return 'stored' end
if v[3] then
  remove(id)
  return 'deleted'
end
to_end(id, status, output, message)
-- Kept, so that a finish that is repeated is known again.
redis.call('HSET', key_job(id), 'token', token)
return 'stored'
