-- ARGV: owner, lease in milliseconds, '1' to take the lane from whoever has it, where a new
-- lane begins, and the owner whom the asker was before, or ''. Gives {'held', epoch, position, commits,
-- planned}, or {'busy', milliseconds, owner, epoch}.
local lease, time = tonumber(ARGV[2]), now()
local held = redis.pcall('HMGET', lane, 'owner', 'epoch', 'until', 'lease', 'position', 'commits', 'planned')
if held.err then
  return unreadable(held)
end
local epoch, position, commits = held[2] or '0', held[5] or ARGV[4], held[6] or '0'
if held[1] ~= owner then
  if held[1] and held[1] ~= '' and held[1] ~= ARGV[5] and ARGV[3] ~= '1' then
    local left = tonumber(held[3]) - time
    -- More than it can be: the server's clock has gone back, and says nothing of this lease.
    if left > 0 and left <= 2 * tonumber(held[4]) then
      return {'busy', text(left), held[1], epoch}
    end
  end
  epoch = text(epoch + 1)
end
redis.call('HSET', lane, 'owner', owner, 'epoch', epoch, 'until', text(time + lease), 'lease', ARGV[2],
  'position', position, 'commits', commits, 'acquired', text(time))
return {'held', epoch, position, commits, held[7] or ''}
