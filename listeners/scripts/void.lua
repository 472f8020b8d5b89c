-- Topics of one bucket are void: whoever watches them loads them again.
-- KEYS: relay, index; hash, log of each topic.
-- ARGV: generation, term, publish command; for each topic: name, channel. Returns 'ok', 'stale' or 'unknown'.
local reign, why = reign_of(KEYS[1], ARGV[1], ARGV[2])
if not reign then return why end
for n = 3, #KEYS, 2 do
  local name, channel = ARGV[n + 1], ARGV[n + 2]
  local meta = redis.call('HMGET', KEYS[n], '@reign', '@state')
  forget(KEYS[2], KEYS[n], KEYS[n + 1], name)
  if meta[1] == reign and meta[2] == 'R' then redis.call(ARGV[3], channel, 'V ' .. name) end
end
return 'ok'
