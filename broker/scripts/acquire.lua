#!lua flags=allow-oom
-- Take the lease if nobody holds it, and count the epoch up.
-- ARGV: root, the highest epoch that the caller knows of, holder (JSON text), life in milliseconds
-- Returns {epoch, ''} or {0, the present holder}.
local root, floor, holder, life_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local present = redis.pcall('GET', root .. 'lease')
-- The caller's own is one whose taking it never heard of: the reply was lost. One that nobody's clock ends, or of another type, is no worker's: it would keep all of them out for ever.
if type(present) == 'string' and present ~= holder and redis.call('PTTL', root .. 'lease') ~= -1 then
  return {0, present}
end
local last = redis.pcall('GET', root .. 'epoch')
local count = last == false and 0 or type(last) == 'string' and string.match(last, '^%d+$') and tonumber(last)
if not count or count >= 2 ^ 52 then
  -- Rubbish: what was handed out before is not known any more. It counted holders, and never comes near the time.
  count = tonumber(redis.call('TIME')[1])
end
-- A Redis that lost its memory must not hand out an epoch twice: never below what the caller has seen.
local epoch = math.max(count, floor) + 1
redis.call('SET', root .. 'epoch', string.format('%d', epoch))
redis.call('SET', root .. 'lease', holder, 'PX', life_ms)
return {epoch, ''}
