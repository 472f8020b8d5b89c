-- What is left of rate limits, by the generic cell rate algorithm (ITU-T I.371): a key holds how many us its limit
-- needs to be whole again, and since when by Redis' clock, and ends then. A clock that is set back makes nobody wait
-- for longer.
-- KEYS: one for each. ARGV, for each: cost, rate (per s), burst, 'take' or 'owe'.
-- Returns for each the us to wait: of 'take' until the cost is there, and it was taken if that is 0; of 'owe', which
-- always takes, until something is there again. A cost above a whole burst is there when the limit is whole.
local DEBTS = 3  -- bursts that can be owed

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local waits = {}
for n, key in ipairs(KEYS) do
  local at = 4 * (n - 1)
  local cost, burst = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
  local each = 1000000 / tonumber(ARGV[at + 2])
  local most = (1 + DEBTS) * burst * each
  local missing, since = string.match(redis.call('GET', key) or '0 0', '^(%d+) (%d+)$')
  missing = math.max(0, missing - math.max(0, now - since))
  local whole = now + math.min(missing, most)
  local needed = 0
  if ARGV[at + 4] == 'take' then needed = math.min(cost, burst) end
  local wait = whole + (needed - burst) * each - now
  if needed == 0 or wait <= 0 then
    whole = math.min(whole + cost * each, now + most)
    if whole > now then
      local value = text(whole - now) .. ' ' .. text(now)
      redis.call('SET', key, value, 'PX', math.ceil((whole - now) / 1000))
    end
    wait = needed == 0 and whole - burst * each - now or 0
  end
  waits[n] = math.ceil(math.max(0, wait))
end
return waits
