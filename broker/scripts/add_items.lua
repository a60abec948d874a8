#!lua flags=allow-oom
-- A chunk of a very large result, while the rest may still be coming: only of the attempt that decides, and each of its chunks once.
-- ARGV: root, epoch of the attempt's mark, ActionID, number of the chunk (the first is 0 and begins anew), ttl_ms, chunk
-- Returns how many chunks there are now, or -1: another attempt decides, or what came before this chunk is gone.
local root, epoch, id, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local record = redis.pcall('HMGET', root .. 'action:' .. id, 'state', 'epoch')
if record.err or record[2] ~= epoch or (record[1] ~= 'sending' and record[1] ~= 'sent') then
  return -1
end
local key = root .. 'action:' .. id .. ':items'
if number == 0 then
  redis.call('DEL', key)
end
local length = redis.call('LLEN', key)
if length == number then
  length = redis.call('RPUSH', key, ARGV[6])
end
redis.call('PEXPIRE', key, ARGV[5])
return length > number and length or -1
