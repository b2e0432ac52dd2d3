-- A stream that goes away by itself, some time after it was last written to. KEYS: the staging key; ARGV:
-- milliseconds.
if redis.call('EXISTS', KEYS[1]) == 0 then
    local id = redis.call('XADD', KEYS[1], '*', 'f', 'v')
    redis.call('XDEL', KEYS[1], id)
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
