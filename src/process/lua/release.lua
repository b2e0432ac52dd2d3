-- KEYS: lane. ARGV: owner, epoch. The epoch stays: whoever is next increments it.
local lane = KEYS[1]
local kind = redis.call('TYPE', lane).ok
if kind ~= 'hash' and kind ~= 'none' then
  return {'type', '1', kind}
end
local held = redis.call('HMGET', lane, 'owner', 'epoch')
if not held[2] then
  return {'gone'}
end
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return {'fenced', held[2], held[1] or ''}
end
redis.call('HSET', lane, 'owner', '', 'until', '0')
return {'released'}
