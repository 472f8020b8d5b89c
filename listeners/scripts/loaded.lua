-- Which topics of these buckets are loaded or loading.
-- KEYS: relay, index of each bucket. ARGV: for each bucket: number of names asked for (0: all), these names.
-- Returns for each bucket {number loaded, name, ...}, or 'unknown' when nothing can be said. A lost index ends the
-- reign: what is loaded can not be told any more, so the relay has to begin again, under a new token.
local function loaded(relay, index, first, count)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', '(' .. text(now_ms()))
  if redis.call('EXISTS', relay) == 0 then return 'unknown' end
  if not redis.call('ZSCORE', index, '') then
    redis.call('UNLINK', relay, index)
    return 'unknown'
  end
  local reply = {redis.call('ZCARD', index) - 1}
  if count == 0 then
    for _, name in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      if name ~= '' then reply[#reply + 1] = name end
    end
  end
  for from = first, first + count - 1, 1000 do
    local to = math.min(from + 999, first + count - 1)
    local scores = redis.call('ZMSCORE', index, unpack(ARGV, from, to))
    for n = from, to do
      if scores[n - from + 1] then reply[#reply + 1] = ARGV[n] end
    end
  end
  return reply
end

local replies, at = {}, 1
for n = 1, #KEYS, 2 do
  local count = tonumber(ARGV[at])
  replies[#replies + 1] = loaded(KEYS[n], KEYS[n + 1], at + 1, count)
  at = at + 1 + count
end
return replies
