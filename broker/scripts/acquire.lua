#!lua flags=allow-oom
-- Take the lease if nobody holds it, and count the epoch up.
-- ARGV: root, the highest epoch that the caller knows of, holder (JSON text), life in milliseconds, the heartbeat that the caller has seen
--   stand still for longer than a lease (or empty): its worker is gone, whatever Redis' clock, which may have been set back, says; '1' to
--   take it, '0' to look only
-- Returns {epoch, '', the epoch before, what that one's holder knew Redis by}, or {0, the present holder, its last heartbeat, its epoch}:
-- where it was only looked and nobody holds it, the holder and the heartbeat are empty.
local root, floor, holder, life_ms, dead_beat, take = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local present = redis.pcall('GET', root .. 'lease')
local last = redis.pcall('GET', root .. 'epoch')
local count = last == false and 0 or type(last) == 'string' and string.match(last, '^%d+$') and tonumber(last)
-- The caller's own is one whose taking it never heard of: the reply was lost. One that nobody's clock ends, or of another type, is no
-- worker's: it would keep all of them out for ever.
if type(present) == 'string' and present ~= holder and redis.call('PTTL', root .. 'lease') ~= -1 then
  local beat = redis.pcall('HGET', root .. 'worker', 'heartbeat_at')
  beat = type(beat) == 'string' and beat or 'none'
  if beat ~= dead_beat then
    return {0, present, beat, count or 0}
  end
end
if take == '0' then
  return {0, '', '', count or 0}
end
if not count or count >= 2 ^ 52 then
  -- Rubbish: what was handed out before is not known any more. It counted holders, and never comes near the time.
  count = tonumber(redis.call('TIME')[1])
end
-- A Redis that lost its memory must not hand out an epoch twice: never below what the caller has seen.
local epoch = math.max(count, floor) + 1
redis.call('SET', root .. 'epoch', string.format('%d', epoch))
redis.call('SET', root .. 'lease', holder, 'PX', life_ms)
local known = redis.pcall('HGET', root .. 'holder', 'redis')
return {epoch, '', count, type(known) == 'string' and known or ''}
