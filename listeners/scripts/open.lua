-- A replica wants the topic. If nobody has loaded it and nobody is at it, the caller becomes the loader.
-- KEYS: relay, index, hash, log. ARGV: name, epoch of a new load ('': only look), ttl (s), lease (ms), up to how many
-- items to bring along; epochs of loads of the caller's that it has given up without being able to say so: nobody
-- needs to wait for their leases.
-- Returns {'open', epoch, seq, live items, {field, value, ...} if they are no more}, {'loading', ms the lease lasts},
-- {'load'}, {'missing'} or {'norelay'}.
local relay, index, hash, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, fresh, ttl = ARGV[1], ARGV[2], ARGV[3]
local reign = redis.call('HGET', relay, 'i')
if not reign then return {'norelay'} end
local meta = redis.call('HMGET', hash, '@reign', '@epoch', '@state', '@seq', '@lease', '@tombs')
local now = now_ms()
if meta[1] == reign then
  if meta[3] == 'R' then
    keep(index, hash, log, name, ttl)
    local items = redis.call('HLEN', hash) - META
    local reply = {'open', meta[2], tonumber(meta[4]), items - tonumber(meta[6])}
    if items <= tonumber(ARGV[5]) then reply[5] = redis.call('HGETALL', hash) end
    return reply
  end
  local left = tonumber(meta[5]) - now
  for n = 6, #ARGV do
    if ARGV[n] == meta[2] then left = 0 end
  end
  -- A lease ends later than any that begins now if the clock has gone back: nobody may be at it any more.
  if left > 0 and left <= tonumber(ARGV[4]) then return {'loading', left} end
end
if fresh == '' then return {'missing'} end
redis.call('UNLINK', hash, log)
redis.call('HSET', hash, '@reign', reign, '@epoch', fresh, '@state', 'L', '@seq', '0',
  '@lease', text(now + ARGV[4]), '@tombs', '0', '@logged', '0')
keep(index, hash, log, name, ttl)
return {'load'}
