-- How far the commit of a batch is, which begins where it has not. KEYS: the marker, the stream, and the
-- staging keys; ARGV: the batch, and how many rows each staging key has. Gives the batch whose commit that
-- is, whether it is done, its rows so far, the number of the staging key that is being moved, the ID after
-- which to go on in it, and its name. The marker is written before anything is moved: whoever comes after a
-- crash finishes with the keys of the first.
local marker, batch = KEYS[1], ARGV[1]
local known = redis.call('HMGET', marker, 'batch', 'done', 'rows', 'part', 'after')
if known[1] and (known[2] == '0' or tonumber(known[1]) >= tonumber(batch)) then
    if known[2] == '1' then
        -- What was written aside for a batch that is done already.
        for at = 3, #KEYS do
            redis.call('DEL', KEYS[at])
        end
    end
    local key = redis.call('HGET', marker, 'key:' .. known[4])
    return {known[1], known[2], known[3], known[4], known[5], key or ''}
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE the key to write to holds no stream')
end
for at = 3, #KEYS do
    -- One that expired while it was written is there again, with the rows that came later.
    if redis.call('XLEN', KEYS[at]) ~= tonumber(ARGV[at - 1]) then
        return redis.error_reply(
            'STAGED rows of the batch have expired, or were evicted, before their commit: run it again')
    end
end
redis.call('DEL', marker)
local parts = #KEYS - 2
local done = parts == 0 and '1' or '0'
redis.call('HSET', marker, 'batch', batch, 'done', done, 'rows', '0', 'part', '0', 'parts', parts,
    'after', '0-0')
for part = 0, parts - 1 do
    redis.call('PERSIST', KEYS[part + 3])
    redis.call('HSET', marker, 'key:' .. part, KEYS[part + 3])
end
return {batch, done, '0', '0', '0-0', KEYS[3] or ''}
