-- All but acquire go on with this. ARGV: owner, epoch.
local epoch = ARGV[2]
local held = redis.pcall('HMGET', lane, 'owner', 'epoch', 'commits', 'position', 'last', 'planned',
  'entries')
if held.err then
  local deleted = deleted_in()
  if deleted then
    return {'fenced', deleted, ''}
  end
  return unreadable(held)
end
if not held[2] then
  return {'gone'}
end
if not is_count(held[2]) then
  return {'damaged', 'epoch', held[2]}
end
-- The first write: it changes nothing, and is refused where any write is (no memory, no disk, too few
-- replicas, or a replica itself, whose lane may be an old one). Once one was taken, all others are. A server
-- that takes the line of flags looks for all of that before it begins.
if not has_flags then
  redis.call('HSET', lane, 'epoch', held[2])
end
local is_owner = held[1] == owner and held[2] == epoch
