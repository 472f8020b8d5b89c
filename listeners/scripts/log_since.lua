-- What was published of an epoch after a seq.
-- KEYS: relay, hash, log. ARGV: epoch, seq. Returns the messages in order, or nil if they are not all there.
local meta = redis.call('HMGET', KEYS[2], '@reign', '@epoch', '@state', '@seq')
if not meta[1] or meta[1] ~= redis.call('HGET', KEYS[1], 'i') then return false end
if meta[2] ~= ARGV[1] or meta[3] ~= 'R' then return false end
local missing = tonumber(meta[4]) - tonumber(ARGV[2])
if missing == 0 then return {} end
-- Every seq has its message, so the last `missing` ones are those wanted.
if missing < 0 or missing > redis.call('LLEN', KEYS[3]) then return false end
return redis.call('LRANGE', KEYS[3], -missing, -1)
