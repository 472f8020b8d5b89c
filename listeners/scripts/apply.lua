-- Changes of topics through the version gate; see DESIGN 3.4. In a cluster they are of one bucket.
-- KEYS: relay, index of each bucket; hash, log of each topic.
-- ARGV: generation, term, changed_at (ms), publish command, log entries, log bytes, tombstones always allowed, ttl (s),
--   number of buckets; for each topic: its bucket (from 1), name, channel, number of items; for each item: key, value.
-- Returns {topics published, topics voided}, or 'stale' or 'unknown' if the caller does not reign over all of them.
local buckets = tonumber(ARGV[9])
local reigns = {}
for n = 1, buckets do
  local held, why = reign_of(KEYS[2 * n - 1], ARGV[1], ARGV[2])
  if not held then return why end
  reigns[n] = held
end
local reign, index  -- of the topic's bucket
local changed_at, publish = ARGV[3], ARGV[4]
local log_entries, log_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local tombs_allowed, ttl = tonumber(ARGV[7]), ARGV[8]

-- The topic's items in ARGV from `at` on that are newer, as fields and values and as lines; nil: void the topic.
local function newer(hash, at, count, tombs)
  local keys, held = {}, {}
  for n = 1, count do keys[n] = ARGV[at + (n - 1) * 2] end
  local values = redis.call('HMGET', hash, unpack(keys))
  for n = 1, count do held[keys[n]] = values[n] end
  local fields, lines = {}, {}
  for n = 1, count do
    local key, value = keys[n], ARGV[at + (n - 1) * 2 + 1]
    local version, dead = head_of(value)
    local old = held[key]
    local old_version, old_dead = -1, false
    if old then old_version, old_dead = head_of(old) end
    if version > old_version then
      if dead then tombs = tombs + 1 end
      if old_dead then tombs = tombs - 1 end
      held[key] = value
      fields[#fields + 1] = key
      fields[#fields + 1] = value
      -- A live one is published as it is stored. A replica that knows no log ids would take a tombstone with one
      -- for a live item.
      lines[#lines + 1] = key .. ' ' .. (dead and string.gsub(value, '^(%d+ T)%d+', '%1', 1) or value)
    elseif version < old_version then
      -- Per key, log ids follow commit order even where versions do not (an INSERT that waited for a DELETE).
      local old_id = log_id_of(old)
      if old_id > 0 and log_id_of(value) > old_id then return nil end
    end
  end
  return fields, lines, tombs
end

-- Appends to the log and returns the bytes it then holds.
local function append(log, message, logged)
  local length = redis.call('RPUSH', log, message)
  if length == 1 then
    redis.call('EXPIRE', log, ttl)
    logged = 0
  end
  logged = logged + #message
  while length > 0 and (length > log_entries or logged > log_bytes) do
    logged = logged - #redis.call('LPOP', log)
    length = length - 1
  end
  return logged
end

local published, voided = 0, 0

local function void(hash, log, name, channel, ready)
  forget(index, hash, log, name)
  voided = voided + 1
  if ready then redis.call(publish, channel, 'V ' .. name) end
end

local function apply(hash, log, name, channel, at, count)
  local meta = redis.call('HMGET', hash, '@reign', '@epoch', '@state', '@seq', '@tombs', '@logged')
  if meta[1] ~= reign then
    -- Its hash was evicted or deleted before its time: whoever follows it would wait for ever.
    if not meta[1] and redis.call('ZREM', index, name) == 1 then return void(hash, log, name, channel, true) end
    return
  end
  local epoch, ready = meta[2], meta[3] == 'R'
  local fields, lines, tombs = newer(hash, at, count, tonumber(meta[5]))
  if not fields then return void(hash, log, name, channel, ready) end
  if #fields == 0 then return end
  fields[#fields + 1] = '@tombs'
  fields[#fields + 1] = text(tombs)
  if not ready then
    redis.call('HSET', hash, unpack(fields))
    return
  end
  local seq = text(tonumber(meta[4]) + 1)
  local message = 'D ' .. name .. ' ' .. epoch .. ' ' .. seq .. ' ' .. changed_at .. '\n' .. table.concat(lines, '\n')
  fields[#fields + 1] = '@seq'
  fields[#fields + 1] = seq
  fields[#fields + 1] = '@logged'
  fields[#fields + 1] = text(append(log, message, tonumber(meta[6])))
  redis.call('HSET', hash, unpack(fields))
  local live = redis.call('HLEN', hash) - META - tombs
  if tombs > math.max(tombs_allowed, live / 2) then return void(hash, log, name, channel, true) end
  redis.call(publish, channel, message)
  published = published + 1
end

local at = 10
for n = 2 * buckets + 1, #KEYS, 2 do
  local bucket, count = tonumber(ARGV[at]), tonumber(ARGV[at + 3])
  reign, index = reigns[bucket], KEYS[2 * bucket]
  apply(KEYS[n], KEYS[n + 1], ARGV[at + 1], ARGV[at + 2], at + 4, count)
  at = at + 4 + count * 2
end
return {published, voided}
