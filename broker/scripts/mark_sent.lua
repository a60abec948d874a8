#!lua flags=allow-oom
-- Asterisk answered, and more is to come.
-- ARGV: root, epoch, PUBLISH or SPUBLISH, then what items have in common: the number of combinations, and of each fields (of the record:
--   their number, then name, value, ...); then the items: the number of their combination, id, message
local root, epoch, publish = ARGV[1], ARGV[2], ARGV[3]
local at, count = 5, #ARGV
local combinations = {}
for number = 1, tonumber(ARGV[4]) do
  local last = at + tonumber(ARGV[at])
  combinations[tostring(number)] = {first = at + 1, last = last}
  at = last + 1
end
for at = at, count, 3 do
  local fields, key = combinations[ARGV[at]], root .. 'action:' .. ARGV[at + 1]
  local record = redis.pcall('HMGET', key, 'state', 'epoch') -- of something of another type: an error, whose [1] is nil
  if record[1] == 'sending' and record[2] == epoch then
    redis.call('HSET', key, 'state', 'sent', unpack(ARGV, fields.first, fields.last))
    redis.call(publish, key, ARGV[at + 2])
  end
end
return 1
