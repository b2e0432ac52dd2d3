-- Where the commit of a batch stands, which begins where it has not. KEYS: the marker, the stream, and the
-- staging keys; ARGV: the batch. Gives the batch whose commit that is, whether it is done, its rows, and
-- its staging keys from the one on that is being moved. The marker is written before anything is moved:
-- whoever comes after a crash finishes with the keys of the first.
local marker, batch = KEYS[1], ARGV[1]
local known = redis.call('HMGET', marker, 'batch', 'done', 'rows', 'part', 'parts', 'after')
if known[1] and (known[2] == '0' or tonumber(known[1]) >= tonumber(batch)) then
    local keys = {}
    for part = tonumber(known[4]), tonumber(known[5]) - 1 do
        keys[#keys + 1] = redis.call('HGET', marker, 'key:' .. part)
    end
    return {known[1], known[2], known[3], known[4], known[6], keys}
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE the sink is no stream')
end
local keys = {}
for at = 3, #KEYS do
    if redis.call('EXISTS', KEYS[at]) == 0 then
        return redis.error_reply('STAGED rows of the batch have expired before their commit')
    end
    keys[#keys + 1] = KEYS[at]
end
redis.call('DEL', marker)
local done = #keys == 0 and '1' or '0'
redis.call('HSET', marker, 'batch', batch, 'done', done, 'rows', '0', 'part', '0', 'parts', #keys,
    'after', '0-0')
for at, key in ipairs(keys) do
    redis.call('PERSIST', key)
    redis.call('HSET', marker, 'key:' .. (at - 1), key)
end
return {batch, done, '0', '0', '0-0', keys}
