#!lua flags=allow-oom
-- Renew the lease and write the heartbeat.
-- ARGV: root, epoch, holder, lease life in ms, heartbeat life in ms, heartbeat (msgpack list of names and values)
-- Returns {1, seconds, microseconds} or {0}: another worker has taken over. A fourth part says that the heartbeat's key is of a
-- wrong type, and that it was not written: the lease must not depend on it.
local root, epoch = ARGV[1], ARGV[2]
if redis.pcall('GET', root .. 'epoch') ~= epoch then
  return {0}
end
-- A Redis that went back in time may have handed out this epoch twice: who has the lease now holds it.
local function token(holder)
  local ok, told = pcall(cjson.decode, holder)
  return ok and type(told) == 'table' and told.token
end
local present = redis.pcall('GET', root .. 'lease')
if type(present) == 'string' and token(present) and token(present) ~= token(ARGV[3]) then
  return {0}
end
redis.call('SET', root .. 'lease', ARGV[3], 'PX', ARGV[4])
local now = redis.call('TIME')
if type(redis.pcall('HEXISTS', root .. 'worker', 'worker')) == 'table' then
  return {1, now[1], now[2], 0}
end
redis.call('HSET', root .. 'worker', 'heartbeat_at', string.format('%d.%06d', now[1], now[2]), unpack(cmsgpack.unpack(ARGV[6])))
redis.call('PEXPIRE', root .. 'worker', ARGV[5])
return {1, now[1], now[2]}
