-- Where the ready ones of these topics are; they live on for another ttl.
-- KEYS: relay, index; hash, log of each topic. ARGV: ttl (s; 0: only look); name of each topic.
-- Returns {epoch, seq} or an empty list for each topic.
local reign = redis.call('HGET', KEYS[1], 'i')
local reply = {}
for n = 3, #KEYS, 2 do
  local meta = redis.call('HMGET', KEYS[n], '@reign', '@epoch', '@state', '@seq')
  if meta[1] and meta[1] == reign and meta[3] == 'R' then
    if ARGV[1] ~= '0' then keep(KEYS[2], KEYS[n], KEYS[n + 1], ARGV[(n + 1) / 2], ARGV[1]) end
    reply[#reply + 1] = {meta[2], tonumber(meta[4])}
  else
    reply[#reply + 1] = {}
  end
end
return reply
