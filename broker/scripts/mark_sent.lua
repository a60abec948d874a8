#!lua flags=allow-oom
-- Asterisk answered, and more is to come.
-- ARGV: root, epoch, PUBLISH or SPUBLISH, then the items. An item: id, message, fields (of the record: their number, then name, value, ...)
local root, epoch, publish = ARGV[1], ARGV[2], ARGV[3]
local at = 4
while at <= #ARGV do
  local key, first = root .. 'action:' .. ARGV[at], at + 3
  local last = first + tonumber(ARGV[at + 2]) - 1
  local record = redis.pcall('HMGET', key, 'state', 'epoch') -- of something of another type: an error, whose [1] is nil
  if record[1] == 'sending' and record[2] == epoch then
    redis.call('HSET', key, 'state', 'sent', unpack(ARGV, first, last))
    redis.call(publish, key, ARGV[at + 1])
  end
  at = last + 1
end
return 1
