-- ARGV: owner, epoch, and a field of the lane with its value: something for whoever has the lane next.
-- Nothing is decided by it that has to be right. Gives {'noted'}.
redis.call('HSET', lane, ARGV[3], ARGV[4])
return {'noted'}
