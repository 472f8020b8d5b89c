-- This epoch of the topic ends: its loader gives up, or what it holds was found to be wrong.
-- KEYS: relay, index, hash, log. ARGV: name, epoch, publish command, channel. Returns 'ok' or 'lost'.
local meta = redis.call('HMGET', KEYS[3], '@epoch', '@state')
if meta[1] ~= ARGV[2] then return 'lost' end
forget(KEYS[2], KEYS[3], KEYS[4], ARGV[1])
if meta[2] == 'R' then redis.call(ARGV[3], ARGV[4], 'V ' .. ARGV[1]) end
return 'ok'
