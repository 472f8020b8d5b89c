-- The load is complete: from here on changes are published. Asking twice is harmless.
-- KEYS: relay, index, hash, log. ARGV: name, epoch, ttl (s), publish command, channel. Returns the seq or 'lost'.
local hash = KEYS[3]
local meta = redis.call('HMGET', hash, '@reign', '@epoch', '@state', '@seq')
if not meta[1] or meta[1] ~= redis.call('HGET', KEYS[1], 'i') or meta[2] ~= ARGV[2] then return 'lost' end
if meta[3] == 'R' then return tonumber(meta[4]) end
redis.call('HSET', hash, '@state', 'R', '@seq', '1', '@lease', '0')
keep(KEYS[2], hash, KEYS[4], ARGV[1], ARGV[3])
redis.call(ARGV[4], ARGV[5], 'R ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' 1')
return 1
