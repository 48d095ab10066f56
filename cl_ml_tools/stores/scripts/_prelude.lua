-- Shared by all scripts; stands before each of them, behind the functions that _keys.py makes.
-- KEYS[1] is the root of all key names in every script, so it is not repeated at their heads.
-- A line is the jobs of one task type and priority: '<task_type>:<priority>'.

local MAX_EVENTS = 100000
local MAX_HISTORY = 20
-- In ms; servers that keep time differ by less.
local MAX_CLOCK_STEP = 1000

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

local function line_of(id)
  local v = redis.call('HMGET', key_job(id), 'task_type', 'priority')
  return v[1] .. ':' .. v[2]
end

-- Takes a queued job out of whatever it waits in.
local function leave_queue(id)
  redis.call('ZREM', key_queued(line_of(id)), id)
  if redis.call('ZREM', key_due(), id) == 1 then redis.call('HDEL', key_job(id), 'due_at') end
  redis.call('ZREM', key_expiring(), id)
end

-- Puts a queued job into its line with a fresh sequence number, which is returned.
local function enter_queue(id)
  local line = line_of(id)
  local sequence = redis.call('HINCRBY', key_sequences(), line, 1)
  redis.call('ZADD', key_queued(line), sequence, id)
  redis.call('SADD', key_lines(), line)
  redis.call('HSET', key_job(id), 'sequence', sequence)
  redis.call('HDEL', key_job(id), 'due_at')
  return sequence
end

-- Lets a queued job wait until a time instead.
local function wait_until_due(id, due_at)
  redis.call('ZADD', key_due(), due_at, id)
  redis.call('HSET', key_job(id), 'due_at', whole(due_at))
end

local function remove_from_indexes(id)
  local v = redis.call('HMGET', key_job(id), 'status', 'created_by', 'task_type')
  redis.call('ZREM', key_jobs(), id)
  redis.call('ZREM', key_status(v[1]), id)
  redis.call('ZREM', key_type(v[3]), id)
  redis.call('ZREM', key_finished(), id)
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

-- Ends a job that is queued or processing. Its claim ends with it: a run that does not know it yet is told so.
local function to_end(id, status, output, message)
  local t = now()
  local v = redis.call('HMGET', key_job(id), 'status', 'progress')
  if v[1] == 'queued' then leave_queue(id) end
  redis.call('ZREM', key_leases(), id)
  local progress = status == 'completed' and '100' or v[2]
  redis.call('HSET', key_job(id), 'status', status, 'progress', progress, 'finished_at', whole(t))
  if output ~= '' then redis.call('HSET', key_job(id), 'task_output', output) end
  if message ~= '' then redis.call('HSET', key_job(id), 'error_message', message) end
  redis.call('HDEL', key_job(id), 'cancel_requested', 'token')
  redis.call('ZADD', key_finished(), t, id)
  move_status(id, v[1], status)
  emit(id, status, progress)
end

-- Makes a job queued again and ends its claim; the caller says what it waits for.
-- A job without queued_at is queued since it was created.
local function to_queued(id)
  local status = redis.call('HGET', key_job(id), 'status')
  redis.call('ZREM', key_leases(), id)
  redis.call('HSET', key_job(id), 'status', 'queued', 'progress', '0', 'queued_at', whole(now()))
  redis.call('HDEL', key_job(id), 'token', 'node', 'process')
  move_status(id, status, 'queued')
  emit(id, 'queued', '0')
end

-- Adds to the record how the current attempt ended: one JSON object a line. Of very many the first and the latest stay.
local function remember_end(id, cause, detail)
  local v = redis.call('HMGET', key_job(id), 'attempt', 'node', 'history')
  local entry = cjson.encode({attempt = tonumber(v[1]), at = now(), node = v[2] or '', cause = cause, detail = detail})
  local lines = {}
  for line in string.gmatch(v[3] or '', '[^\n]+') do lines[#lines + 1] = line end
  if #lines >= MAX_HISTORY then table.remove(lines, MAX_HISTORY / 2) end
  lines[#lines + 1] = entry
  redis.call('HSET', key_job(id), 'history', table.concat(lines, '\n'))
end

-- Notes that leases are being looked after. When nobody could do so for half a lease, an outage is over: everybody
-- who lives gets a lease of grace to say so, before any lease may be taken for ended. When the clock has gone back (the
-- server is another one now), what was to end goes back with it.
local function note_beat(t, lease_ms)
  local beat = tonumber(redis.call('HGET', key_meta(), 'beat') or 0)
  if beat - t > MAX_CLOCK_STEP then
    for _, key in ipairs({key_leases(), key_serving()}) do
      for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, t - beat, member) end
    end
  end
  if t - beat > lease_ms / 2 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key_leases(), '-inf', t + lease_ms)) do
      redis.call('ZADD', key_leases(), t + lease_ms, id)
    end
  end
  redis.call('HSET', key_meta(), 'beat', whole(t))
end

-- An answer with the whole record behind it.
local function answer_record(answer, id)
  local record = redis.call('HGETALL', key_job(id))
  table.insert(record, 1, answer)
  return record
end

local function crashed_too_often(crashes, limit, last)
  return 'The process that ran this job died ' .. crashes .. ' times; the limit is ' .. limit .. '. Last: ' .. last
end
