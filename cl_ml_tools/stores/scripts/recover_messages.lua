-- Finds queued jobs whose messages were lost, and gives each a new sequence number.
-- ARGV: patience_ms, max_patience_ms, limit
-- Returns the ids of jobs whose message has to be sent again.
--
-- A delivered number shows that all lower ones of its line were taken from the broker before: whatever is still
-- queued patience_ms later was overtaken. A line without deliveries tells nothing; there the oldest job alone is
-- sent again, at doubling intervals, and its delivery exposes the others.
local patience_ms, max_patience_ms, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local t = now()
local lost = {}
for _, line in ipairs(redis.call('SMEMBERS', key_lines())) do
  local queued = key_queued(line)
  if redis.call('ZCARD', queued) == 0 then
    redis.call('SREM', key_lines(), line)
    redis.call('HDEL', key_watched(), line)
  elseif #lost < limit then
    local seen = tonumber(redis.call('HGET', key_seen(), line) or 0)
    local watched = redis.call('HGET', key_watched(), line)
    local w = watched and cjson.decode(watched)
    if not w then w = {seen = seen, at = t, patience = patience_ms} end
    -- The clock may have gone back.
    w.at = math.min(w.at, t)
    if t - w.at >= w.patience or (seen ~= w.seen and t - w.at >= patience_ms) then
      local overtaken = redis.call('ZRANGEBYSCORE', queued, '-inf', w.seen, 'LIMIT', 0, limit - #lost)
      if #overtaken > 0 then
        for _, id in ipairs(overtaken) do lost[#lost + 1] = id end
        -- There may be more than the limit: look again at the next step, at the same mark.
      elseif seen ~= w.seen then
        w = {seen = seen, at = t, patience = patience_ms}
      else
        lost[#lost + 1] = redis.call('ZRANGE', queued, 0, 0)[1]
        w = {seen = seen, at = t, patience = math.min(w.patience * 2, max_patience_ms)}
      end
    end
    redis.call('HSET', key_watched(), line, cjson.encode(w))
  end
end
for _, id in ipairs(lost) do enter_queue(id) end
return lost
