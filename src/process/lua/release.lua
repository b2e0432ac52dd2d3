-- ARGV: owner, epoch. The epoch stays: whoever is next increments it.
redis.call('HSET', lane, 'owner', '', 'until', '0')
return {'released'}
