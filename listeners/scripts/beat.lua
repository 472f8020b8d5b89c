-- The canary, if the caller reigns over all of these buckets; their keys live on.
-- KEYS: relay, index of each bucket. ARGV: generation, term, ttl (s), publish command, beacon channel, message.
-- Returns 'ok', 'stale' or 'unknown'.
for n = 1, #KEYS, 2 do
  local reign, why = reign_of(KEYS[n], ARGV[1], ARGV[2])
  if not reign then return why end
end
for n = 1, #KEYS do redis.call('EXPIRE', KEYS[n], ARGV[3]) end
redis.call(ARGV[4], ARGV[5], ARGV[6])
return 'ok'
