-- KEYS: lane. ARGV: owner, epoch, lease in milliseconds, and where the next batch is to end, or ''.
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
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', lane, 'until', string.format('%.0f', now + ARGV[3]), 'lease', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('HSET', lane, 'planned', ARGV[4])
end
return {'renewed'}
