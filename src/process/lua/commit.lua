-- KEYS: lane, input stream, and those that are written. ARGV: owner, epoch, the number of commits before
-- this one and with it, the position before it and after it, the lease in milliseconds, group and
-- consumer or '', how many IDs are acknowledged, a letter for each key from the third on, how many entries
-- the batch had and how many milliseconds they took, or '', then the IDs, and what is to be written.
--
-- A script is not rolled back. All that may be refused is looked at before the first write that counts.
local stream, before, after, from, to = KEYS[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local group, consumer, acknowledged, letters = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]
local entries, took = ARGV[12], ARGV[13]
local all = held[7] or ''
if entries ~= '' then
  all = text((tonumber(all) or 0) + entries)
end
local FIRST = 14
-- Lua passes a function at most 8,000 arguments (LUAI_MAXCSTACK).
local PART = 7000

local time = now()
local extended = text(time + ARGV[7])
-- Of a commit that is found again a WAIT on this connection waits for this write, and so for the commit,
-- which another connection has sent.
if held[3] == after and held[5] == owner .. ' ' .. epoch then
  if is_owner then
    redis.call('HSET', lane, 'until', extended, 'lease', ARGV[7])
  else
    redis.call('HSET', lane, 'epoch', held[2])
  end
  return {'applied', 'again'}
end
if not is_owner then
  return {'fenced', held[2], held[1] or ''}
end
if held[3] ~= before or held[4] ~= from then
  return {'conflict', held[4] or '', held[3] or ''}
end

for i = 3, #KEYS do
  local letter = string.sub(letters, i - 2, i - 2)
  local wanted = (letter == 'h' or letter == 'H') and 'hash' or 'stream'
  kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted and kind ~= 'none' then
    return {'type', text(i), kind}
  end
end
-- A stream of which the last ID is used up takes no more entries: no server says so before the XADD. Those
-- that the user may not look at are not looked at. Numbers so large are exact in steps of 2,048 alone.
local LAST = '18446744073709551615'
local function is_used_up(key, is_known)
  local near = 18446744073709551616 - 4096 * math.ceil(#ARGV / 4096)
  local found = redis.pcall('XRANGE', key, LAST .. '-' .. text(near), '+', 'COUNT', 1)
  if not found.err and #found > 0 then
    return true
  elseif is_known then
    return false
  end
  -- The entry may be gone. This one gives the first and the last entry with it, so not each time.
  local info = redis.pcall('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local ms, seq = string.match(info[i + 1], '^(%d+)%-(%d+)$')
      return ms == LAST and tonumber(seq) >= near
    end
  end
  return false
end
for i = 3, #KEYS do
  local letter = string.sub(letters, i - 2, i - 2)
  if letter ~= 'h' and letter ~= 'H' and is_used_up(KEYS[i], letter == 'x' or letter == 't') then
    return {err = 'ERR the stream ' .. string.gsub(KEYS[i], '[\r\n]', ' ')
      .. ' has used up its IDs (XINFO STREAM: last-generated-id) and takes no more entries'}
  end
end
-- Whether the user may write is asked by commands that change nothing.
for i = 3, #KEYS do
  local key, letter = KEYS[i], string.sub(letters, i - 2, i - 2)
  if letter == 'H' then
    redis.call('HDEL', key, '\0redfloe')
    local refused = redis.pcall('HSET', key, 'a', 'b', 'c')
    if not string.find(refused.err, 'wrong number of arguments', 1, true) then
      return refused
    end
  elseif letter == 'X' or letter == 'T' then
    local refused = redis.pcall('XADD', key, '0-0', 'a', 'b')
    if not string.find(refused.err, 'greater than 0-0', 1, true) then
      return refused
    end
  end
  if letter == 'T' or letter == 't' then
    redis.call('XTRIM', key, 'MAXLEN', '9223372036854775807')
  end
end
if group ~= '' then
  local missing = {}
  for i = FIRST, FIRST + acknowledged - 1 do
    local found = redis.pcall('XPENDING', stream, group, ARGV[i], ARGV[i], 1, consumer)
    -- As it is: before Redis 7.0 the error of a script has another code.
    if found.err then
      return found
    end
    if #found == 0 then
      missing[#missing + 1] = ARGV[i]
    end
  end
  if #missing > 0 then
    return {'pending', text(#missing), missing[1]}
  end
  redis.call('XACK', stream, group, '0-0')
end

local at = FIRST + acknowledged
local function write()
  while at <= #ARGV do
    local command, key = ARGV[at], KEYS[tonumber(ARGV[at + 1])]
    local rows, width = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    if command == 'XADD' then
      for _ = 1, rows do
        redis.call('XADD', key, '*', unpack(ARGV, at, at + width - 1))
        at = at + width
      end
    else
      for _ = 1, rows do
        redis.call(command, key, unpack(ARGV, at, at + width - 1))
        at = at + width
      end
    end
  end
  local last = FIRST + acknowledged - 1
  for i = FIRST, last, PART do
    redis.call('XACK', stream, group, unpack(ARGV, i, math.min(i + PART - 1, last)))
  end
  -- What comes last is for people: nothing is decided by it.
  redis.call('HSET', lane, 'commits', after, 'position', to, 'last', owner .. ' ' .. epoch,
    'until', extended, 'lease', ARGV[7], 'committed', text(time), 'planned', '',
    'entries', all, 'batch', entries, 'took', took)
end
local done, failure = pcall(write)
if not done then
  if type(failure) == 'table' then
    failure = failure.err
  end
  return {'broken', tostring(failure)}
end
return {'applied', 'now'}
