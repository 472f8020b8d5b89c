-- The highest counter any relay has reached. KEYS: position. ARGV: counter, ttl (s). Returns it.
local held = tonumber(redis.call('GET', KEYS[1]) or '-1')
local counter = math.max(held, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], text(counter), 'EX', ARGV[2])
return counter
