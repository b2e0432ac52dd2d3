-- ARGV: owner, lease in milliseconds, '1' to take the lane from whoever has it, where a new
-- lane begins, and the owner whom the asker was before, or ''; and '1' to mend what no processor has
-- written. Gives {'held', epoch, position, commits, planned}, or {'busy', milliseconds, owner, epoch}.
local lease, time = tonumber(ARGV[2]), now()
local held = redis.pcall('HMGET', lane, 'owner', 'epoch', 'until', 'lease', 'position', 'commits', 'planned')
local deleted = held.err and deleted_in()
if deleted then
  redis.call('DEL', lane)
  held = {}
elseif held.err then
  return unreadable(held)
end
local epoch, position, commits = held[2] or deleted or '0', held[5] or ARGV[4], held[6] or '0'
for field, value in pairs({epoch = epoch, position = position, commits = commits}) do
  local is_right = is_count(value)
  if field == 'position' then
    is_right = string.find(value, '^%d+%-%d+$') ~= nil
  end
  if not is_right then
    if ARGV[6] ~= '1' then
      return {'damaged', field, value}
    elseif field == 'epoch' then
      epoch = text(time)  -- higher than any that was counted
    elseif field == 'position' then
      position = '0-0'
    else
      commits = '1'  -- a lane without a commit has no state
    end
  end
end
if held[1] ~= owner then
  if held[1] and held[1] ~= '' and held[1] ~= ARGV[5] and ARGV[3] ~= '1' then
    local left = (tonumber(held[3]) or 0) - time
    -- More than it can be: the server's clock has gone back, and says nothing of this lease.
    if left > 0 and left <= 2 * (tonumber(held[4]) or 0) then
      return {'busy', text(left), held[1], epoch}
    end
  end
  epoch = text(epoch + 1)
  if ARGV[6] == '1' and held[1] and held[1] ~= '' then
    redis.call('HSET', lane, 'displaced', held[1])
  end
end
redis.call('HSET', lane, 'owner', owner, 'epoch', epoch, 'until', text(time + lease), 'lease', ARGV[2],
  'position', position, 'commits', commits, 'acquired', text(time))
return {'held', epoch, position, commits, held[7] or ''}
