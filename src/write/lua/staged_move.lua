-- Moves a chunk of a staging key's entries, where nobody else has. KEYS: the marker, the stream, the
-- staging key; ARGV: the batch, the part, the ID after which to go on, the most entries and bytes.
local marker, stream, staging = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HMGET', marker, 'batch', 'part', 'after', 'parts')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or known[3] ~= ARGV[3] then
    return 0
end
local after, most, most_bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local moved, size, page = 0, 0, 1
local is_done, failure = false, nil
while not is_done and not failure and moved < most and size < most_bytes do
    -- Ranges that exclude their start are newer than some servers. Servers make these IDs, so their second
    -- number is small.
    local ms, seq = string.match(after, '^(%d+)-(%d+)$')
    local start = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
    local entries = redis.call('XRANGE', staging, start, '+', 'COUNT', page)
    is_done = #entries < page
    for _, entry in ipairs(entries) do
        -- A script that fails is not rolled back: what has been moved is noted all the same.
        local added = redis.pcall('XADD', stream, '*', unpack(entry[2]))
        if type(added) == 'table' and added.err then
            failure, is_done = added, false
            break
        end
        for _, text in ipairs(entry[2]) do
            size = size + #text
        end
        moved, after = moved + 1, entry[1]
    end
    -- As large a page as fits, which the first entries tell.
    page = math.min(100, most - moved, math.floor((most_bytes - size) * moved / math.max(size, 1)))
    page = math.max(page, 1)
end
if moved > 0 then
    redis.call('HINCRBY', marker, 'rows', moved)
end
if not is_done then
    redis.call('HSET', marker, 'after', after)
    return failure or 1
end
redis.call('DEL', staging)
redis.call('HDEL', marker, 'key:' .. ARGV[2])
local part = tonumber(ARGV[2]) + 1
redis.call('HSET', marker, 'part', part, 'after', '0-0')
if part == tonumber(known[4]) then
    redis.call('HSET', marker, 'done', '1')
end
return 1
