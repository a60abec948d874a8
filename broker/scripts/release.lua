#!lua flags=allow-oom
-- Give the lease back, so that the next worker need not wait for its end.
-- ARGV: root, epoch
local root, epoch = ARGV[1], ARGV[2]
if redis.pcall('GET', root .. 'epoch') ~= epoch then
  return 0
end
redis.call('DEL', root .. 'worker')
return redis.call('DEL', root .. 'lease')
