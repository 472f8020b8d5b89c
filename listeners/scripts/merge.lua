-- A part of what the loader read from the tables, through the same gate; the lease begins anew.
-- KEYS: relay, index, hash, log. ARGV: name, epoch, ttl (s), lease (ms); for each item: key, value.
-- Returns 'ok' or 'lost'.
local hash = KEYS[3]
local meta = redis.call('HMGET', hash, '@reign', '@epoch', '@state', '@tombs')
if not meta[1] or meta[1] ~= redis.call('HGET', KEYS[1], 'i') or meta[2] ~= ARGV[2] or meta[3] ~= 'L' then
  return 'lost'
end
local keys, fields, tombs = {}, {}, tonumber(meta[4])
for n = 5, #ARGV, 2 do keys[#keys + 1] = ARGV[n] end
local held = #keys > 0 and redis.call('HMGET', hash, unpack(keys)) or {}
for n, key in ipairs(keys) do
  local value, old = ARGV[4 + n * 2], held[n]
  local version, dead = head_of(value)
  local old_version, old_dead = -1, false
  if old then old_version, old_dead = head_of(old) end
  if version > old_version then
    if dead then tombs = tombs + 1 end
    if old_dead then tombs = tombs - 1 end
    fields[#fields + 1] = key
    fields[#fields + 1] = value
  end
end
fields[#fields + 1] = '@tombs'
fields[#fields + 1] = text(tombs)
fields[#fields + 1] = '@lease'
fields[#fields + 1] = text(now_ms() + ARGV[4])
redis.call('HSET', hash, unpack(fields))
keep(KEYS[2], hash, KEYS[4], ARGV[1], ARGV[3])
return 'ok'
