-- KEYS: lane, input stream, and the hashes to drop. ARGV: owner, epoch, and where the lane goes on: after an
-- ID, at '$', the end of the stream, or '' for a lane that is deleted with them. Gives {'reset', position,
-- and how many fields each hash had}.
local stream, position = KEYS[2], ARGV[3]
for i = 3, #KEYS do
  kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then
    return {'type', text(i), kind}
  end
end
if position == '$' then
  position = '0-0'
  kind = redis.call('TYPE', stream).ok
  if kind == 'stream' then
    local info = redis.call('XINFO', 'STREAM', stream)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        position = info[i + 1]
      end
    end
  elseif kind ~= 'none' then
    return {'type', '2', kind}
  end
end
local answer, dropped = {'reset', position}, {}
for i = 3, #KEYS do
  answer[i] = text(redis.call('HLEN', KEYS[i]))
  dropped[i - 2] = KEYS[i]
end
local displaced = redis.call('HGET', lane, 'displaced')
if position == '' then
  dropped[#dropped + 1] = lane
end
-- One command for all: a user who may not delete one of them deletes none.
if #dropped > 0 then
  redis.call('UNLINK', unpack(dropped))
end
if position == '' then
  -- Whoever had it may work on. One who says nothing for more than a day is told that the lane is gone.
  if displaced then
    redis.pcall('SET', lane, 'deleted in epoch ' .. epoch, 'PX', '86400000')
  end
else
  redis.call('HSET', lane, 'position', position, 'planned', '', 'begins', position, 'tried', '')
  -- A lane without a commit has no state. Where that stays, because somebody has said so, it counts as one.
  if redis.call('HGET', lane, 'commits') == '0' then
    redis.call('HSET', lane, 'commits', '1')
  end
end
return answer
