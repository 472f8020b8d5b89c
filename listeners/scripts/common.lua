-- In front of every script. A topic's hash holds its items and, under names that begin with @, its meta fields:
--   @reign       the bucket's reign it was opened in; another one: it counts as not loaded
--   @epoch       also the loader's token
--   @state       L loading, R ready
--   @seq  @lease (ms of Redis' clock)  @tombs (tombstones held)  @logged (bytes in the log)
-- A value is `<version> <L|T><log id> <body>`; the log id is 0 where the item was read from its table.
-- The bucket's relay hash holds g (generation), t (term) and i (a token that is new with every generation, and when
-- the key was lost). The index is a sorted set of loaded topics by the ms at which they expire; its member ''
-- never leaves, so that a lost index is not taken for an empty one.
local META = 7

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- The token of the caller's reign; nil and 'stale' or 'unknown' if it does not reign here.
local function reign_of(key, generation, term)
  local held = redis.call('HMGET', key, 'g', 't', 'i')
  if not held[1] then return nil, 'unknown' end
  if held[1] ~= generation then return nil, 'stale' end
  if held[2] == term then return held[3] end
  return nil, tonumber(held[2]) > tonumber(term) and 'stale' or 'unknown'
end

-- Its version, and whether it is a tombstone.
local function head_of(value)
  local version = string.match(value, '^%d+')
  return tonumber(version), string.byte(value, #version + 2) == 84
end

local function log_id_of(value)
  return tonumber(string.match(value, '^%d+ [LT](%d+)'))
end

-- The topic lives for another ttl seconds. The index keeps it a second longer than Redis does.
local function keep(index, hash, log, name, ttl)
  redis.call('EXPIRE', hash, ttl)
  redis.call('EXPIRE', log, ttl)
  redis.call('ZADD', index, text(now_ms() + (ttl + 1) * 1000), name)
end

local function forget(index, hash, log, name)
  redis.call('UNLINK', hash, log)
  redis.call('ZREM', index, name)
end
