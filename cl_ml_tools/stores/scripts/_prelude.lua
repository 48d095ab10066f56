-- Shared by all scripts; stands before each of them, behind the functions that _keys.py makes.
-- KEYS[1] is the root of all key names in every script, so it is not repeated at their heads.
-- A line is the jobs of one task type and priority: '<task_type>:<priority>'.

local MAX_EVENTS = 100000

-- Milliseconds by the server's clock; tests move it by meta.time_offset_ms.
local function now()
  local t = redis.call('TIME')
  local offset = redis.call('HGET', key_meta(), 'time_offset_ms')
  return t[1] * 1000 + math.floor(t[2] / 1000) + (tonumber(offset or 0))
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Appends an event and remembers its id in the record.
local function emit(id, status, progress, deleted)
  local creator = redis.call('HGET', key_job(id), 'created_by')
  local fields = {'j', id, 's', status, 'p', progress}
  if creator then fields[7], fields[8] = 'c', creator end
  if deleted then fields[#fields + 1], fields[#fields + 2] = 'd', '1' end
  local event = redis.call('XADD', key_events(), 'MAXLEN', '~', MAX_EVENTS, '*', unpack(fields))
  if not deleted then redis.call('HSET', key_job(id), 'event_id', event) end
  return event
end

local function move_status(id, from, to)
  local created = redis.call('HGET', key_job(id), 'created_at')
  redis.call('ZREM', key_status(from), id)
  redis.call('ZADD', key_status(to), created, id)
end

local function leave_queue(id)
  local v = redis.call('HMGET', key_job(id), 'task_type', 'priority')
  redis.call('ZREM', key_queued(v[1] .. ':' .. v[2]), id)
end

-- Puts a job into its line with a fresh sequence number, which is returned.
local function enter_queue(id)
  local v = redis.call('HMGET', key_job(id), 'task_type', 'priority')
  local line = v[1] .. ':' .. v[2]
  local sequence = redis.call('HINCRBY', key_sequences(), line, 1)
  redis.call('ZADD', key_queued(line), sequence, id)
  redis.call('HSET', key_job(id), 'sequence', sequence)
  return sequence
end

local function remove_from_indexes(id)
  local v = redis.call('HMGET', key_job(id), 'status', 'created_by')
  redis.call('ZREM', key_jobs(), id)
  redis.call('ZREM', key_status(v[1]), id)
  if v[2] then redis.call('ZREM', key_creator(v[2]), id) end
end

-- Removes a job that nobody runs.
local function remove(id)
  local v = redis.call('HMGET', key_job(id), 'status', 'progress', 'deleted')
  if v[1] == 'queued' then leave_queue(id) end
  redis.call('ZREM', key_leases(), id)
  if not v[3] then
    remove_from_indexes(id)
    emit(id, v[1], v[2], true)
  end
  redis.call('DEL', key_job(id))
end

-- Ends a job that is queued or processing.
local function to_end(id, status, output, message)
  local v = redis.call('HMGET', key_job(id), 'status', 'progress')
  if v[1] == 'queued' then leave_queue(id) end
  redis.call('ZREM', key_leases(), id)
  local progress = status == 'completed' and '100' or v[2]
  redis.call('HSET', key_job(id), 'status', status, 'progress', progress, 'finished_at', whole(now()))
  if output ~= '' then redis.call('HSET', key_job(id), 'task_output', output) end
  if message ~= '' then redis.call('HSET', key_job(id), 'error_message', message) end
  redis.call('HDEL', key_job(id), 'cancel_requested')
  move_status(id, v[1], status)
  emit(id, status, progress)
end

-- Puts a job that is processing back to its queue; returns the sequence number of the message to send.
local function to_queue(id)
  redis.call('ZREM', key_leases(), id)
  redis.call('HSET', key_job(id), 'status', 'queued', 'progress', '0')
  redis.call('HDEL', key_job(id), 'token', 'node', 'process')
  move_status(id, 'processing', 'queued')
  local sequence = enter_queue(id)
  emit(id, 'queued', '0')
  return sequence
end

-- Adds to the record how the current attempt ended: one JSON object a line.
local function remember_end(id, cause, detail)
  local v = redis.call('HMGET', key_job(id), 'attempt', 'node', 'history')
  local entry = cjson.encode({attempt = tonumber(v[1]), at = now(), node = v[2] or '', cause = cause, detail = detail})
  redis.call('HSET', key_job(id), 'history', v[3] and (v[3] .. '\n' .. entry) or entry)
end
