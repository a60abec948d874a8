#!lua
-- A batch of events goes out, in order: the stream, the event channels, the channels of the actions concerned; and with them what they
-- change of the bus's calls, so that a record which says that a call has ended is never seen before the call's last event is out.
-- ARGV: root, epoch, PUBLISH or SPUBLISH, length of `events`, event channels (1 or 0), number of the first event, the number of the first
--   event before which some are known to be missing (0: none are), batch.
--   An item: {name, message, list of ActionIDs, list of notes, list of the Uniqueids of followed calls (or nil)}. A note: id (ActionID),
--   add (Uniqueids of legs), drop (Uniqueids), fields (of the record: name, value, ...), ttl_ms (of the record once the call is over, or nil)
-- Returns 1, or 0: another worker has taken over. Or, where nothing was published, since events are missing that had been (Redis has gone
--   back in time, or was emptied): the id of the stream's last entry, and the number of its event (0: it is none of this epoch).
local root, epoch, publish = ARGV[1], ARGV[2], ARGV[3]
if redis.pcall('GET', root .. 'epoch') ~= epoch then
  return 0
end
local FINAL = {done = true, failed = true, rejected = true, expired = true, cancelled = true, unknown = true}
local stream, length, broadcast, first = root .. 'events', ARGV[4], ARGV[5] == '1', tonumber(ARGV[6])

local function note_call(note)
  local key, legs = root .. 'action:' .. note.id, root .. 'legs'
  for _, uniqueid in ipairs(note.add) do
    redis.call('HSET', legs, uniqueid, note.id)
  end
  for _, uniqueid in ipairs(note.drop) do
    redis.call('HDEL', legs, uniqueid)
  end
  local state = redis.pcall('HGET', key, 'state')
  if type(state) ~= 'string' or #note.fields == 0 then
    return -- a record that is gone (or never was one) stays gone: half of it would be worse than none
  end
  redis.call('HSET', key, unpack(note.fields))
  if FINAL[state] and note.ttl_ms then
    redis.call('PEXPIRE', key, note.ttl_ms)
  elseif FINAL[state] then
    redis.call('PERSIST', key)
  end
end

local function send(item)
  for _, note in ipairs(item[4]) do
    note_call(note)
  end
  redis.call('XADD', stream, 'MAXLEN', '~', length, '*', 'event', item[1], 'data', item[2])
  if broadcast then
    redis.call('PUBLISH', root .. 'event:' .. item[1], item[2])
  end
  for _, id in ipairs(item[3]) do
    redis.call(publish, root .. 'action:' .. id, item[2])
  end
  for _, uniqueid in ipairs(item[5] or {}) do
    redis.call(publish, root .. 'call:' .. uniqueid, item[2])
  end
end

local items, done = cmsgpack.unpack(ARGV[8]), 0
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
local seq = 0 -- of the stream's last event, as far as it is of this epoch; nil: it is not a number of ours, somebody else wrote it
if last then
  -- The pump repeats a batch whose reply was lost: what the stream's last event shows to be out is not published twice.
  local ok, message = pcall(cmsgpack.unpack, last[2][4])
  if not ok or type(message) ~= 'table' or not tonumber(message.epoch) then
    seq = nil
  elseif tostring(message.epoch) == epoch then
    seq = tonumber(message.seq)
    done = (seq or 0) - first + 1
    if not (done <= #items) then
      seq, done = nil, 0
    end
  end
end
if seq and seq < first - 1 and ARGV[7] ~= ARGV[6] then
  return {last and last[1] or '0-0', seq}
end
for i, item in ipairs(items) do
  if i > done then
    send(item)
  end
end
return 1
