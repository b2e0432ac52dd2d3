-- An empty stream that goes away by itself. KEYS: the staging key; ARGV: milliseconds.
local id = redis.call('XADD', KEYS[1], '*', 'f', 'v')
redis.call('XDEL', KEYS[1], id)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
