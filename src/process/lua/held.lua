-- All but acquire go on with this. ARGV: owner, epoch.
local epoch = ARGV[2]
<<<<<<< HEAD
local held = redis.pcall('HMGET', lane, 'owner', 'epoch', 'commits', 'position', 'last', 'planned',
=======
if deleted then
  return {'fenced', deleted, ''}
end
local held = redis.call('HMGET', lane, 'owner', 'epoch', 'commits', 'position', 'last', 'planned',
>>>>>>> 54c0f7c (Processors: what is loaded before an entry counts as tried, stops, losses and deletions that are told, commits that would be half in, lanes that are damaged)
  'entries')
if held.err then
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
