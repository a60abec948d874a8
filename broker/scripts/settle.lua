#!lua flags=allow-oom
-- Entries reach their final state: record, line in `results`, message, acknowledgement, all or nothing.
-- Not fenced by the lease but by the attempt: the truth from a worker that has lost its lease since is welcome.
-- ARGV: root, epoch, PUBLISH or SPUBLISH, length of `results`, length of `dead`, then what items have in common: the number of
--   combinations, and of each lane, fingerprint, attempt (the epoch of its mark, or empty: it was never sent), ttl_ms, reply, channel_id
--   (of an Originate that placed no call, or empty), state, error_code, error, action, producer, settled_at, revised (1: the truth about
--   an action that was settled as `unknown`; nothing is done to one in any other state), chunks (of the items that are kept beside the
--   record), then four lists, each with its number first: base (the record's first fields), fields (further final ones), dead (for
--   `dead`), line (further fields of the line in `results`); then the items: the number of their combination, id, entry, message, queued_at
-- Returns a list of verdicts. Nothing was done where it is `superseded` (another attempt decides), `reused` (the ActionID is another's, and
--   the entry asked for something else) or `missing` (the record is gone, and the item brings no base fields to make it anew).
local root, publish = ARGV[1], ARGV[3]
-- Where one of these is of a wrong type it is an error now, and not half-way: nothing of it could be taken back.
for _, name in ipairs({'results', 'dead', 'actions', 'actions:urgent'}) do
  redis.call('XLEN', root .. name)
end
redis.call('HEXISTS', root .. 'legs', '')
local FINAL = {done = true, failed = true, rejected = true, expired = true, cancelled = true, unknown = true}
local NEVER_SENT = {rejected = true, expired = true, cancelled = true}
local finished = {actions = {}, urgent = {}}

local function list(at)
  local first = at + 1
  return {first = first, last = first + tonumber(ARGV[at]) - 1}
end

-- Both streams are trimmed once, when all has been told.
local has_told, has_copied = false, false

local function tell(item, key)
  local common = item.common
  has_told = true
  redis.call('XADD', root .. 'results', '*', 'action_id', item.id, 'entry', item.entry,
    'action', common.action, 'state', common.state, 'producer', common.producer, 'queued_at', item.queued_at,
    'settled_at', common.settled_at, 'error_code', common.error_code, 'message', common.error, 'revised', common.revised,
    unpack(ARGV, common.line.first, common.line.last))
  redis.call(publish, key, item.message)
  if common.reply ~= '' then
    redis.call(publish, root .. 'reply:' .. common.reply, item.message)
  end
  if common.dead.last > common.dead.first then
    has_copied = true
    redis.call('XADD', root .. 'dead', '*', unpack(ARGV, common.dead.first, common.dead.last))
  end
end

local function write(item, key, entry, call)
  local common = item.common
  if not entry then
    redis.call('HSET', key, unpack(ARGV, common.base.first, common.base.last))
  end
  redis.call('HSET', key, 'state', common.state, 'settled_at', common.settled_at, 'result', item.message,
    unpack(ARGV, common.fields.first, common.fields.last))
  -- The record of a live call is kept until the call is over; who notes that sets its end.
  if call and call ~= 'ended' then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, common.ttl_ms)
  end
  if common.chunks ~= '0' then
    redis.call('PEXPIRE', key .. ':items', common.ttl_ms)
  end
  if common.channel_id ~= '' and not call and redis.call('HGET', root .. 'legs', common.channel_id) == item.id then
    redis.call('HDEL', root .. 'legs', common.channel_id)
  end
end

local function settle(item)
  local common = item.common
  local key = root .. 'action:' .. item.id
  local record = redis.pcall('HMGET', key, 'state', 'entry', 'lane', 'epoch', 'call')
  local state, entry = record[1], record[2]
  local verdict = 'settled'
  if common.revised == '1' then
    if state ~= 'unknown' or entry ~= item.entry or record[3] ~= common.lane then
      return 'already'
    end
    redis.call('HDEL', key, 'error_code', 'error')
    write(item, key, entry, record[5])
    tell(item, key)
    return 'revised'
  elseif record.err or (state and entry and (entry ~= item.entry or record[3] ~= common.lane))
    or (not entry and common.error_code == 'action-id-reused') then
    -- The record is another entry's, or none at all: this one is answered by a result of its own, the record is left alone. (A Redis that
    -- went back in time may have forgotten the other's record. Its place is kept for that: it may have been sent.) Answered once: its
    -- entry is gone where the reply to this call was lost and the call is repeated.
    -- But two that expire together were judged when neither had a record. (What was written has a fate of its own.)
    local unsent = common.state == 'expired' or common.state == 'cancelled'
    local fingerprint = unsent and not record.err and redis.call('HGET', key, 'fingerprint')
    if fingerprint and fingerprint ~= common.fingerprint then
      return 'reused' -- it asked for something else: that is what it must be told
    end
    local stream = root .. (common.lane == 'urgent' and 'actions:urgent' or 'actions')
    local first = redis.call('XACK', stream, 'workers', item.entry) + redis.call('XDEL', stream, item.entry) > 0
    if fingerprint then
      return 'duplicate' -- it asked for the same thing: one answer is enough
    end
    if first then
      tell(item, key)
    end
    return 'apart'
  elseif common.attempt ~= '' and record[4] and record[4] ~= common.attempt then
    return 'superseded'
  elseif common.attempt == '' and NEVER_SENT[common.state] and (state == 'sending' or state == 'sent') then
    return 'superseded' -- said by a worker that was slower than the one that has begun it since
  elseif FINAL[state] and entry then
    verdict = 'already'
  elseif not entry and common.base.last < common.base.first then
    return 'missing'
  else
    write(item, key, entry, record[5])
    tell(item, key)
  end
  local entries = finished[common.lane]
  entries[#entries + 1] = item.entry
  return verdict
end

-- Whether one entry id is surely below another. Numbers over 2^53 are not exact in Lua: then it is not sure.
local function below(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, seq, other_ms, other_seq = tonumber(ms), tonumber(seq), tonumber(other_ms), tonumber(other_seq)
  if math.max(ms, seq, other_ms, other_seq) >= 9007199254740992 then
    return false
  end
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

-- Acknowledge and delete. Deleting one by one searches the stream's block for each; all before the oldest pending entry has been
-- settled, so that part is trimmed off at once.
local function acknowledge(stream, entries)
  redis.call('XACK', stream, 'workers', unpack(entries))
  local pending = redis.pcall('XPENDING', stream, 'workers', '-', '+', 1)[1] -- nil also where the group is gone
  local rest = entries
  if pending then
    rest = {}
    for _, entry in ipairs(entries) do
      if not below(entry, pending[1]) then
        rest[#rest + 1] = entry
      end
    end
    if #rest < #entries then
      redis.call('XTRIM', stream, 'MINID', pending[1])
    end
  end
  if #rest > 0 then
    redis.call('XDEL', stream, unpack(rest))
  end
end

local at, count = 7, #ARGV
local combinations = {}
for number = 1, tonumber(ARGV[6]) do
  local base = list(at + 14)
  local fields = list(base.last + 1)
  local dead = list(fields.last + 1)
  local line = list(dead.last + 1)
  combinations[tostring(number)] = {
    lane = ARGV[at], fingerprint = ARGV[at + 1], attempt = ARGV[at + 2], ttl_ms = ARGV[at + 3], reply = ARGV[at + 4],
    channel_id = ARGV[at + 5], state = ARGV[at + 6], error_code = ARGV[at + 7], error = ARGV[at + 8], action = ARGV[at + 9],
    producer = ARGV[at + 10], settled_at = ARGV[at + 11], revised = ARGV[at + 12], chunks = ARGV[at + 13],
    base = base, fields = fields, dead = dead, line = line,
  }
  at = line.last + 1
end
local verdicts = {}
for at = at, count, 5 do
  verdicts[#verdicts + 1] = settle({
    common = combinations[ARGV[at]], id = ARGV[at + 1], entry = ARGV[at + 2], message = ARGV[at + 3], queued_at = ARGV[at + 4],
  })
end
if has_told then
  redis.call('XTRIM', root .. 'results', 'MAXLEN', '~', ARGV[4])
end
if has_copied then
  redis.call('XTRIM', root .. 'dead', 'MAXLEN', '~', ARGV[5])
end
if #finished.actions > 0 then
  acknowledge(root .. 'actions', finished.actions)
end
if #finished.urgent > 0 then
  acknowledge(root .. 'actions:urgent', finished.urgent)
end
return verdicts
