-- KEYS: lane, hash. ARGV: owner, epoch, cursor, how many fields about. Gives {'loaded', cursor, fields and
-- values}. That the lane is still the asker's is looked at in the same step: what a successor has written
-- may be lost in a failover, and must not have been seen.
local hash = KEYS[2]
kind = redis.call('TYPE', hash).ok
if kind ~= 'hash' and kind ~= 'none' then
  return {'type', '2', kind}
end
local page = redis.call('HSCAN', hash, ARGV[3], 'COUNT', ARGV[4])
return {'loaded', page[1], page[2]}
