-- ARGV: owner, epoch, lease in milliseconds, and where the next batch is to end, or '', with where it
-- begins. Gives {'renewed', planned}. An end that was planned before stays: a batch may have been handed out
-- with it. A copy that was delayed speaks of another batch, or changes nothing.
redis.call('HSET', lane, 'until', text(now() + ARGV[3]), 'lease', ARGV[3])
local planned = held[6] or ''
if ARGV[4] ~= '' then
  if held[4] ~= ARGV[5] then
    return {'conflict', held[4] or '', held[3] or ''}
  end
  if planned == '' then
    planned = ARGV[4]
    redis.call('HSET', lane, 'planned', planned)
  end
end
return {'renewed', planned}
