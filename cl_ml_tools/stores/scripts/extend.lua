-- Lets the leases of a node's runs end lease_ms from now.
-- ARGV: node, lease_ms, then id and token ('' = whatever run of the job the node has) for each run
-- Without runs it only notes that leases are looked after.
-- Returns for each run: 'current', 'stopping', 'lost' or 'idle'.
local node, lease_ms = ARGV[1], tonumber(ARGV[2])
local t = now()
local states = {}
note_beat(t, lease_ms)
for i = 3, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local v = redis.call('HMGET', key_job(id), 'status', 'node', 'token', 'cancel_requested')
  local state
  if v[1] == 'processing' and v[2] == node and (token == '' or token == v[3]) then
    redis.call('ZADD', key_leases(), t + lease_ms, id)
    state = v[4] and 'stopping' or 'current'
  elseif v[1] == 'processing' or (token ~= '' and token ~= v[3]) then
    state = 'lost'
  else
    state = 'idle'
  end
  states[#states + 1] = state
end
return states
