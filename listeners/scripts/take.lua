-- What is left of rate limits, by the generic cell rate algorithm (ITU-T I.371): a key holds the us of Redis' clock
-- at which its limit will be whole again, and ends then.
-- KEYS: one for each. ARGV, for each: cost, rate (per s), burst, 'take' or 'owe'.
-- Returns for each the us to wait: of 'take' until the cost is there, and it was taken if that is 0; of 'owe', which
-- always takes, until something is there again. A cost above a whole burst is there when the limit is whole.
local DEBTS = 3  -- bursts that can be owed: a clock that was set back shuts nobody out for longer

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local waits = {}
for n, key in ipairs(KEYS) do
  local at = 4 * (n - 1)
  local cost, burst = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
  local each = 1000000 / tonumber(ARGV[at + 2])
  local most = (1 + DEBTS) * burst * each
  local whole = math.max(now, math.min(tonumber(redis.call('GET', key) or 0), now + most))
  local needed = 0
  if ARGV[at + 4] == 'take' then needed = math.min(cost, burst) end
  local wait = whole + (needed - burst) * each - now
  if needed == 0 or wait <= 0 then
    whole = math.min(whole + cost * each, now + most)
    if whole > now then redis.call('SET', key, text(whole), 'PX', math.ceil((whole - now) / 1000)) end
    wait = needed == 0 and whole - burst * each - now or 0
  end
  waits[n] = math.ceil(math.max(0, wait))
end
return waits
