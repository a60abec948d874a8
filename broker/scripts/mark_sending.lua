#!lua
-- The last word before an action is written: may this entry be sent now, by this worker?
-- ARGV: root, epoch, PUBLISH or SPUBLISH, worker, then the items. An item: id, lane, entry, fingerprint, deadline, reply, channel_id
--   (an Originate's, or empty), probe (1: only look whether it has expired), again (1: a read-only action that a lost worker had
--   begun), action, producer, queued_at, request, extra (further fields of the record: their number, then name, value, ...)
-- Returns a list of {verdict, unix time}, or an empty list: another worker has taken over.
local root, epoch, publish, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.pcall('GET', root .. 'epoch') ~= epoch then
  return {}
end
-- Where one of these is of a wrong type it is an error now, and not half-way.
redis.call('HEXISTS', root .. 'legs', '')
redis.call('XLEN', root .. 'actions')
redis.call('XLEN', root .. 'actions:urgent')
local FINAL = {done = true, failed = true, rejected = true, expired = true, cancelled = true, unknown = true}
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local now_text = string.format('%d.%06d', time[1], time[2])

local function forget(item)
  local stream = root .. (item.lane == 'urgent' and 'actions:urgent' or 'actions')
  redis.call('XACK', stream, 'workers', item.entry)
  redis.call('XDEL', stream, item.entry)
end

local function mark(item, key)
  local at = item.at
  redis.call('HSET', key, 'state', 'sending', 'sending_at', now_text, 'epoch', epoch, 'worker', worker,
    'lane', item.lane, 'entry', item.entry, 'fingerprint', item.fingerprint, 'action', ARGV[at + 9],
    'producer', ARGV[at + 10], 'queued_at', ARGV[at + 11], 'request', ARGV[at + 12], unpack(ARGV, at + 14, item.last))
  if item.channel_id ~= '' then
    redis.call('HSET', root .. 'legs', item.channel_id, item.id)
  end
  return 'sending'
end

-- A second entry with a known ActionID: never sent, whatever it asks for.
local function refuse_second(item, key, state, fingerprint)
  if fingerprint ~= item.fingerprint then
    return 'reused'
  end
  local result = FINAL[state] and redis.call('HGET', key, 'result')
  if result then
    redis.call(publish, key, result)
    if item.reply ~= '' then
      redis.call(publish, root .. 'reply:' .. item.reply, result)
    end
  end
  forget(item)
  return 'duplicate'
end

local function judge(item)
  local key = root .. 'action:' .. item.id
  local record = redis.pcall('HMGET', key, 'state', 'entry', 'lane', 'fingerprint', 'epoch')
  if record.err then
    return 'reused' -- something of another type has its place
  end
  local state, entry = record[1], record[2]
  if state and entry and (entry ~= item.entry or record[3] ~= item.lane) then
    return refuse_second(item, key, state, record[4])
  end
  if state == 'cancelled' and not entry then
    return 'cancelled'
  end
  if FINAL[state] then
    -- The same entry again: a crash came between its settling and its acknowledgement.
    forget(item)
    return 'settled'
  end
  if state == 'sending' and record[5] == epoch then
    -- Our own mark whose reply was lost on the way; nothing was written on it.
    return 'sending'
  end
  if state == 'sending' or state == 'sent' then
    return item.again == '1' and mark(item, key) or 'begun'
  end
  if now > tonumber(item.deadline) then
    return 'expired'
  end
  if item.probe == '1' then
    return 'early'
  end
  if item.channel_id ~= '' and redis.call('HEXISTS', root .. 'legs', item.channel_id) == 1 then
    return 'duplicate-channel-id'
  end
  return mark(item, key)
end

local verdicts = {}
local at = 5
while at <= #ARGV do
  local last = at + 13 + tonumber(ARGV[at + 13])
  local item = {
    id = ARGV[at], lane = ARGV[at + 1], entry = ARGV[at + 2], fingerprint = ARGV[at + 3], deadline = ARGV[at + 4],
    reply = ARGV[at + 5], channel_id = ARGV[at + 6], probe = ARGV[at + 7], again = ARGV[at + 8], at = at, last = last,
  }
  verdicts[#verdicts + 1] = {judge(item), now_text}
  at = last + 1
end
return verdicts
