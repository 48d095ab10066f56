-- Lets the leases of a node's runs end lease_ms from now.
-- ARGV: node, lease_ms, then id and token ('' = whatever run of the job the node has) for each run
-- Without runs it only notes that leases are looked after.
-- Returns for each run: 'current', 'stopping', 'lost' or 'idle'.
local node, lease_ms = ARGV[1], tonumber(ARGV[2])
local t = now()
local states = {}
note_beat(t, lease_ms)

-- Who polls says what it serves when it asks for a job, and not while it runs one. Not for as long as a very long
-- lease: that would be said of a node that is dead, too.
local serves_ms = math.min(lease_ms, 90000)
local function serves_still(task_type)
  local is_longer = redis.call('ZADD', key_serving(), 'XX', 'GT', 'CH', t + serves_ms, node .. ' ' .. task_type) == 1
  if is_longer and redis.call('PTTL', key_serving()) < serves_ms then
    redis.call('PEXPIRE', key_serving(), serves_ms)
  end
end

for i = 3, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local v = redis.call('HMGET', key_job(id), 'status', 'node', 'token', 'cancel_requested', 'task_type')
  local state
  if v[1] == 'processing' and v[2] == node and (token == '' or token == v[3]) then
    redis.call('ZADD', key_leases(), t + lease_ms, id)
    serves_still(v[5])
    state = v[4] and 'stopping' or 'current'
  elseif v[1] == 'processing' or (token ~= '' and token ~= v[3]) then
    state = 'lost'
  else
    state = 'idle'
  end
  states[#states + 1] = state
end
return states
