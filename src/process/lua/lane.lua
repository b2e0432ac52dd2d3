-- Every script begins with this. KEYS: lane. ARGV: owner.
local lane, owner = KEYS[1], ARGV[1]
local kind
-- What to answer where the lane cannot be read.
local function unreadable(refused)
  kind = redis.call('TYPE', lane).ok
  if kind ~= 'hash' and kind ~= 'none' then
    return {'type', '1', kind}
  end
  -- As it is: before Redis 7.0 the error of a script has another code.
  return refused
end
local function text(number)
  return string.format('%.0f', number)
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
