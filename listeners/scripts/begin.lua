-- A relay begins its reign over these buckets, all or none.
-- KEYS: relay, index of each bucket. ARGV: generation, term, new token, ttl (s), publish command, beacon channel.
-- Returns 'ok', or 'stale' if a later term of the same generation reigns.
local generation, term, token, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = {}
for n = 1, #KEYS, 2 do
  held[n] = redis.call('HMGET', KEYS[n], 'g', 't')
  if held[n][1] == generation and tonumber(held[n][2]) > tonumber(term) then return 'stale' end
end
local changed = false
for n = 1, #KEYS, 2 do
  local relay, index = KEYS[n], KEYS[n + 1]
  if held[n][1] ~= generation or not redis.call('ZSCORE', index, '') then
    redis.call('HSET', relay, 'g', generation, 'i', token)
    redis.call('UNLINK', index)
    redis.call('ZADD', index, '+inf', '')
    changed = true
  end
  redis.call('HSET', relay, 't', term)
  redis.call('EXPIRE', relay, ttl)
  redis.call('EXPIRE', index, ttl)
end
if changed then redis.call(ARGV[5], ARGV[6], 'G ' .. generation) end
return 'ok'
