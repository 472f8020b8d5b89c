-- A ready topic, or its first page if it is a large one.
-- KEYS: relay, hash. ARGV: items a page. Returns {epoch, seq, cursor, {field, value, ...}} or nil.
local meta = redis.call('HMGET', KEYS[2], '@reign', '@epoch', '@state', '@seq')
if not meta[1] or meta[1] ~= redis.call('HGET', KEYS[1], 'i') or meta[3] ~= 'R' then return false end
local page = redis.call('HSCAN', KEYS[2], '0', 'COUNT', ARGV[1] + META)
return {meta[2], tonumber(meta[4]), page[1], page[2]}
