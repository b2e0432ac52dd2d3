-- KEYS: lane, hash. ARGV: owner, epoch, cursor, how many fields about. Gives {'loaded', cursor, fields and
-- values}. That the lane is still the asker's is looked at in the same step: what a successor has written
-- may be lost in a failover, and must not have been seen.
local lane, hash = KEYS[1], KEYS[2]
for i = 1, 2 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then
    return {'type', string.format('%.0f', i), kind}
  end
end
local held = redis.call('HMGET', lane, 'owner', 'epoch')
if not held[2] then
  return {'gone'}
end
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return {'fenced', held[2], held[1] or ''}
end
local page = redis.call('HSCAN', hash, ARGV[3], 'COUNT', ARGV[4])
return {'loaded', page[1], page[2]}
