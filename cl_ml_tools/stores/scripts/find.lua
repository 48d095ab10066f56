-- Finds jobs, newest first: by creation time, then by id. Changes nothing.
-- ARGV: whose ('anybody', 'nobody' or 'creator'), creator, status ('' = any), task_type ('' = any), newest_ms ('+inf'
--   or a bound of ZRANGEBYSCORE), after_id ('' or: of the jobs at newest_ms only those behind this id), oldest_ms,
--   limit, max_scanned
-- Returns {ms, id, found_id, {field, value, ...}, ...}: where the search stopped because of limit or max_scanned
--   ('', '' = nothing is left), then the jobs.
local whose, creator, status, task_type, newest, after_id, oldest, limit, max_scanned = unpack(ARGV)
limit, max_scanned = tonumber(limit), tonumber(max_scanned)

-- The index with the fewest jobs: what is not in it need not be looked at.
local index = whose == 'creator' and key_creator(creator) or key_jobs()
local narrower = {status ~= '' and key_status(status), task_type ~= '' and key_type(task_type)}
for i = 1, 2 do
  if narrower[i] and redis.call('ZCARD', narrower[i]) < redis.call('ZCARD', index) then index = narrower[i] end
end

-- Byte by byte, as Redis orders ids at one score; Lua's own comparison goes by the server's locale.
local function is_behind(id)
  for i = 1, math.max(#id, #after_id) do
    local a, b = string.byte(id, i) or -1, string.byte(after_id, i) or -1
    if a ~= b then return a < b end
  end
  return false
end

local function is_wanted(id)
  local v = redis.call('HMGET', key_job(id), 'status', 'task_type', 'created_by', 'deleted')
  return v[1] and not v[4]
    and (status == '' or v[1] == status)
    and (task_type == '' or v[2] == task_type)
    and (whose == 'anybody' or (whose == 'nobody' and not v[3]) or (whose == 'creator' and v[3] == creator))
end

local found, scanned, offset = {'', ''}, 0, 0
while true do
  local chunk = redis.call('ZREVRANGEBYSCORE', index, newest, oldest, 'WITHSCORES', 'LIMIT', offset, 100)
  for i = 1, #chunk, 2 do
    local id, ms = chunk[i], chunk[i + 1]
    if after_id == '' or tonumber(ms) ~= tonumber(newest) or is_behind(id) then
      scanned = scanned + 1
      if is_wanted(id) then
        found[#found + 1] = id
        found[#found + 1] = redis.call('HGETALL', key_job(id))
      end
      if #found - 2 >= 2 * limit or scanned >= max_scanned then
        found[1], found[2] = whole(tonumber(ms)), id
        return found
      end
    end
  end
  if #chunk < 200 then return found end
  offset = offset + 100
end
