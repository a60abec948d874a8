#!lua
-- The last word before an action is written: may this entry be sent now, by this worker?
-- ARGV: root, epoch, PUBLISH or SPUBLISH, worker, then what items have in common: the number of combinations, and of each lane,
--   fingerprint, reply, probe (1: only look whether it has expired), again (1: it was begun before, and may be done again),
--   action, producer, request, extra (further fields of the record: their number, then name, value, ...); then the items: the number of
--   their combination, id, entry, deadline, channel_id (an Originate's, or empty), queued_at
-- Returns the unix time and then the verdicts, or an empty list: another worker has taken over.
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
  local stream = root .. (item.common.lane == 'urgent' and 'actions:urgent' or 'actions')
  redis.call('XACK', stream, 'workers', item.entry)
  redis.call('XDEL', stream, item.entry)
end

local function mark(item, key)
  local common = item.common
  redis.call('HSET', key, 'state', 'sending', 'sending_at', now_text, 'epoch', epoch, 'worker', worker,
    'lane', common.lane, 'entry', item.entry, 'fingerprint', common.fingerprint, 'action', common.action,
    'producer', common.producer, 'queued_at', item.queued_at, 'request', common.request, unpack(ARGV, common.first, common.last))
  if item.channel_id ~= '' then
    redis.call('HSET', root .. 'legs', item.channel_id, item.id)
  end
  return 'sending'
end

-- A second entry with a known ActionID: never sent, whatever it asks for.
local function refuse_second(item, key, state, fingerprint)
  local common = item.common
  if fingerprint ~= common.fingerprint then
    return 'reused'
  end
  local result = FINAL[state] and redis.call('HGET', key, 'result')
  if result then
    redis.call(publish, key, result)
    if common.reply ~= '' then
      redis.call(publish, root .. 'reply:' .. common.reply, result)
    end
  end
  forget(item)
  return 'duplicate'
end

-- The verdict on an entry whose ActionID has a record; nil: this is no reason not to send it.
local function judge_known(item, key)
  local common = item.common
  local record = redis.pcall('HMGET', key, 'state', 'entry', 'lane', 'fingerprint', 'epoch', 'worker')
  if record.err then
    return 'reused' -- something of another type has its place
  end
  local state, entry = record[1], record[2]
  if state and entry and (entry ~= item.entry or record[3] ~= common.lane) then
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
  if state == 'sending' and record[5] == epoch and record[6] == worker then
    -- Our own mark whose reply was lost on the way; nothing was written on it. (A Redis that went back in time may have handed out our
    -- epoch before, to a worker on another host.)
    return 'sending'
  end
  if state == 'sending' or state == 'sent' then
    return common.again == '1' and mark(item, key) or 'begun'
  end
end

local function judge(item)
  local common = item.common
  local key = root .. 'action:' .. item.id
  local verdict = redis.call('EXISTS', key) == 1 and judge_known(item, key)
  if verdict then
    return verdict
  end
  if now > tonumber(item.deadline) then
    return 'expired'
  end
  if common.probe == '1' then
    return 'early'
  end
  if item.channel_id ~= '' and redis.call('HEXISTS', root .. 'legs', item.channel_id) == 1 then
    return 'duplicate-channel-id'
  end
  return mark(item, key)
end

local at, count = 6, #ARGV
local combinations = {}
for number = 1, tonumber(ARGV[5]) do
  local last = at + 8 + tonumber(ARGV[at + 8])
  combinations[tostring(number)] = {
    lane = ARGV[at], fingerprint = ARGV[at + 1], reply = ARGV[at + 2], probe = ARGV[at + 3], again = ARGV[at + 4], action = ARGV[at + 5],
    producer = ARGV[at + 6], request = ARGV[at + 7], first = at + 9, last = last,
  }
  at = last + 1
end
local answer = {now_text}
for at = at, count, 6 do
  answer[#answer + 1] = judge({
    common = combinations[ARGV[at]], id = ARGV[at + 1], entry = ARGV[at + 2], deadline = ARGV[at + 3], channel_id = ARGV[at + 4],
    queued_at = ARGV[at + 5],
  })
end
return answer
