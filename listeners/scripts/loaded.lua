-- Which topics of a bucket are loaded or loading.
-- KEYS: relay, index. ARGV: names asked for; none: all.
-- Returns {number loaded, name, ...}, or 'unknown' when nothing can be said. A lost index ends the reign: what
-- is loaded can not be told any more, so the relay has to begin again, under a new token.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(now_ms()))
if redis.call('EXISTS', KEYS[1]) == 0 then return 'unknown' end
if not redis.call('ZSCORE', KEYS[2], '') then
  redis.call('UNLINK', KEYS[1], KEYS[2])
  return 'unknown'
end
local reply = {redis.call('ZCARD', KEYS[2]) - 1}
if #ARGV == 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if name ~= '' then reply[#reply + 1] = name end
  end
  return reply
end
for first = 1, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV, first, last))
  for n = first, last do
    if scores[n - first + 1] then reply[#reply + 1] = ARGV[n] end
  end
end
return reply
