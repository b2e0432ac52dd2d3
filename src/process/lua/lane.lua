-- Every script begins with this. KEYS: lane. ARGV: owner.
local lane, owner = KEYS[1], ARGV[1]
local kind
-- The epoch in which the lane was deleted: it leaves a text for a while, so that whoever had it is fenced.
local function deleted_in()
  if redis.call('TYPE', lane).ok == 'string' then
    return string.match(redis.call('GETRANGE', lane, 0, 63), '^deleted in epoch (%d+)$')
  end
end
-- What to answer where the lane cannot be read.
local function unreadable(refused)
  kind = redis.call('TYPE', lane).ok
  if kind ~= 'hash' and kind ~= 'none' then
    return {'type', '1', kind}
  end
  -- As it is: before Redis 7.0 the error of a script has another code.
  return refused
end
-- Whether a text is a count, of those that a Lua number is exact about.
local function is_count(text)
  return #text < 16 and string.find(text, '^%d+$') ~= nil
end
local function text(number)
  return string.format('%.0f', number)
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
