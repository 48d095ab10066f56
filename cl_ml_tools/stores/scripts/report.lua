-- Stores progress; it never goes back within an attempt.
-- ARGV: id, token, progress (0 to 99)
-- Returns 'current', 'stopping' or 'lost'.
local id, token, progress = unpack(ARGV)
local v = redis.call('HMGET', key_job(id), 'status', 'token', 'progress', 'cancel_requested', 'deleted')
if v[1] ~= 'processing' or v[2] ~= token then return 'lost' end
if tonumber(progress) > tonumber(v[3]) then
  redis.call('HSET', key_job(id), 'progress', progress)
  if not v[5] then emit(id, 'processing', progress) end
end
return v[4] and 'stopping' or 'current'
