-- Moves a chunk of a staging key's entries, where nobody else has. KEYS: the marker, the stream, the
-- staging key; ARGV: the batch, the part, the ID after which to go on, the most entries and bytes.
local marker, stream, staging = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HMGET', marker, 'batch', 'part', 'after', 'parts')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or known[3] ~= ARGV[3] then
    return 0
end
local after, moved, size = ARGV[3], 0, 0
local most, most_bytes, step = tonumber(ARGV[4]), tonumber(ARGV[5]), 50
local is_done = false
while not is_done and moved < most and size < most_bytes do
    local entries = redis.call('XRANGE', staging, after, '+', 'COUNT', step + 1)
    local came = 0
    for _, entry in ipairs(entries) do
        if entry[1] ~= after then
            redis.call('XADD', stream, '*', unpack(entry[2]))
            for _, text in ipairs(entry[2]) do
                size = size + #text
            end
            after = entry[1]
            came = came + 1
        end
    end
    moved = moved + came
    is_done = came < step
end
if moved > 0 then
    redis.call('HINCRBY', marker, 'rows', moved)
end
if not is_done then
    redis.call('HSET', marker, 'after', after)
    return 1
end
redis.call('DEL', staging)
redis.call('HDEL', marker, 'key:' .. ARGV[2])
local part = tonumber(ARGV[2]) + 1
redis.call('HSET', marker, 'part', part, 'after', '0-0')
if part == tonumber(known[4]) then
    redis.call('HSET', marker, 'done', '1')
end
return 1
