-- Who processes a sharded stream. KEYS: the members. ARGV: one of them, how many lanes it has ('' where it
-- leaves), and for how many milliseconds it counts without another word.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', now + ARGV[3], ARGV[2]))
end
local known = redis.call('HGETALL', KEYS[1])
local members = {}
for at = 1, #known, 2 do
  local until_ms, lanes = string.match(known[at + 1], '^(%d+) (%d+)$')
  if until_ms and tonumber(until_ms) > now then
    members[#members + 1] = known[at]
    members[#members + 1] = lanes
  else
    redis.call('HDEL', KEYS[1], known[at])
  end
end
-- The last one to leave, or to die, leaves nothing.
redis.call('PEXPIRE', KEYS[1], 10 * ARGV[3])
return members
