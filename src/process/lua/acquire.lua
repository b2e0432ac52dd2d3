-- KEYS: lane. ARGV: owner, lease in milliseconds, '1' to take it from whoever has it, and where a new
-- lane begins. Gives {'held', epoch, position, commits, planned}, or {'busy', milliseconds, owner, epoch}.
local lane, owner, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
local kind = redis.call('TYPE', lane).ok
if kind ~= 'hash' and kind ~= 'none' then
  return {'type', '1', kind}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('HMGET', lane, 'owner', 'epoch', 'until', 'lease', 'position', 'commits', 'planned')
local epoch, position, commits = held[2] or '0', held[5] or ARGV[4], held[6] or '0'
local function text(number)
  return string.format('%.0f', number)
end
if held[1] ~= owner then
  if held[1] and held[1] ~= '' and ARGV[3] ~= '1' then
    local left = tonumber(held[3]) - now
    -- More than it can be: the server's clock has gone back, and says nothing of this lease.
    if left > 0 and left <= 2 * tonumber(held[4]) then
      return {'busy', text(left), held[1], epoch}
    end
  end
  epoch = text(epoch + 1)
end
redis.call('HSET', lane, 'owner', owner, 'epoch', epoch, 'until', text(now + lease), 'lease', ARGV[2],
  'position', position, 'commits', commits, 'acquired', text(now))
return {'held', epoch, position, commits, held[7] or ''}
