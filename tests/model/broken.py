"""Scripts broken on purpose: a machine that has never found anything proves nothing."""

# ruff: noqa: E501, for what is replaced is quoted as it stands in the scripts

from dataclasses import dataclass
from typing import Final

from broker.scripts import source


@dataclass(frozen=True, slots=True)
class Broken:
    """One change of one script's text, and what is wrong with it."""

    why: str
    script: str
    old: str
    new: str
    is_rare: bool = False
    """It takes more examples than there is time for in each run."""

    def text(self) -> str:
        """The broken script."""
        text = source(self.script).decode()
        assert text.count(self.old) == 1, f"{self.why}: {self.old!r} is {text.count(self.old)} times in {self.script}"
        return text.replace(self.old, self.new)


MARK: Final = "mark_sending"
SENT: Final = "mark_sent"
SETTLE: Final = "settle"
EVENTS: Final = "publish_events"

STALE: Final = "redis.pcall('GET', root .. 'epoch') ~= epoch"

BROKEN: Final = (
    # -- marking
    Broken("a stale epoch marks", MARK, STALE, "false"),
    Broken("marking works while memory is full", MARK, "#!lua", "#!lua flags=allow-oom"),
    Broken("a second entry is taken for the first", MARK, "entry ~= item.entry or record[3] ~= common.lane", "false"),
    Broken("an id is taken for the same in both lanes", MARK, "entry ~= item.entry or record[3] ~= common.lane", "entry ~= item.entry"),
    Broken("what asks for something else is a duplicate", MARK, "if fingerprint ~= common.fingerprint then", "if false then"),
    Broken("a duplicate is not answered", MARK, "local result = FINAL[state] and", "local result = false and"),
    Broken("a duplicate's reply channel is not told", MARK, "if common.reply ~= '' then", "if false then"),
    Broken("a duplicate is answered before there is an answer", MARK, "FINAL[state] and redis.call('HGET', key, 'result')", "redis.call('HGET', key, 'request')"),
    Broken("a duplicate stays", MARK, "forget(item)\n  return 'duplicate'", "return 'duplicate'"),
    Broken("a duplicate is acknowledged and not deleted", MARK, "  redis.call('XDEL', stream, item.entry)\n", ""),
    Broken("a duplicate is deleted and not acknowledged", MARK, "  redis.call('XACK', stream, 'workers', item.entry)\n", ""),
    Broken("a duplicate is deleted from the wrong lane", MARK, "(item.common.lane == 'urgent' and 'actions:urgent' or 'actions')", "'actions'"),
    Broken("what was cancelled is taken for settled", MARK, "if state == 'cancelled' and not entry then", "if false then"),
    Broken("what was cancelled is sent", MARK, "if state == 'cancelled' and not entry then\n    return 'cancelled'", "if state == 'cancelled' and not entry then\n    return mark(item, key)"),
    Broken("what is settled is sent again", MARK, "if FINAL[state] then", "if false then"),
    Broken("a settled entry is not acknowledged", MARK, "forget(item)\n    return 'settled'", "return 'settled'"),
    Broken("what another epoch began is its own", MARK, "if state == 'sending' and record[5] == epoch and record[6] == worker then", "if state == 'sending' then"),
    Broken("its own mark is not known again", MARK, "if state == 'sending' and record[5] == epoch and record[6] == worker then", "if false then"),
    Broken("what was begun is sent again, whatever it is", MARK, "common.again == '1' and mark(item, key) or 'begun'", "mark(item, key)"),
    Broken("what only reads is not sent again", MARK, "common.again == '1' and mark(item, key) or 'begun'", "'begun'"),
    Broken("what is sent already is sent again", MARK, "if state == 'sending' or state == 'sent' then", "if state == 'sending' then"),
    Broken("the deadline is not looked at", MARK, "if now > tonumber(item.deadline) then", "if false then"),
    Broken("the deadline is the other way round", MARK, "if now > tonumber(item.deadline) then", "if now < tonumber(item.deadline) then"),
    Broken("a probe marks", MARK, "if common.probe == '1' then", "if false then"),
    Broken("a ChannelId is given to two calls", MARK, "redis.call('HEXISTS', root .. 'legs', item.channel_id) == 1", "false"),
    Broken("a ChannelId is not held from the mark", MARK, "redis.call('HSET', root .. 'legs', item.channel_id, item.id)", ""),
    Broken("the mark does not say of which epoch", MARK, "'epoch', epoch, ", "'epoch', 0, "),
    Broken("the mark does not say by which entry", MARK, "'entry', item.entry, 'fingerprint'", "'entry', item.id, 'fingerprint'"),
    Broken("only the first of a batch is judged", MARK, "  })\nend\nreturn answer", "  })\n  break\nend\nreturn answer"),
    # -- Asterisk's first answer
    Broken("sent is said by anybody", SENT, " and record[2] == epoch then", " then", is_rare=True),
    Broken("sent is said after the end", SENT, "record[1] == 'sending' and ", ""),
    Broken("sent is written and not told", SENT, "redis.call(publish, key, ARGV[at + 2])", ""),
    Broken("sent is refused by a full Redis", SENT, "#!lua flags=allow-oom", "#!lua"),
    # -- settling
    Broken("settling is refused by a full Redis", SETTLE, "#!lua flags=allow-oom", "#!lua"),
    Broken("settling is fenced by the lease", SETTLE, "local root, publish = ARGV[1], ARGV[3]", "local root, publish = ARGV[1], ARGV[3]\nif redis.pcall('GET', root .. 'epoch') ~= ARGV[2] then return {} end"),
    Broken("settling is not fenced by the attempt", SETTLE, "elseif common.attempt ~= '' and record[4] and record[4] ~= common.attempt then", "elseif false then"),
    Broken("settling twice tells twice", SETTLE, "elseif FINAL[state] and entry then", "elseif false then"),
    Broken("settling overwrites another's record", SETTLE, "elseif record.err or (state and entry and (entry ~= item.entry or record[3] ~= common.lane))\n", "elseif record.err\n"),
    Broken("a reused ActionID takes the place of the record that was forgotten", SETTLE, "(not entry and common.error_code == 'action-id-reused')", "false"),
    Broken("settling overwrites the other lane's record", SETTLE, "(state and entry and (entry ~= item.entry or record[3] ~= common.lane))", "(state and entry and entry ~= item.entry)"),
    Broken("a reused ActionID is answered each time", SETTLE, "    if first then\n      tell", "    if true then\n      tell"),
    Broken("a reused ActionID is not answered", SETTLE, "    if first then\n      tell", "    if false then\n      tell"),
    Broken("two that were judged together are both answered", SETTLE, "if fingerprint then", "if false then"),
    Broken("a reused ActionID is answered as it was judged", SETTLE, "if fingerprint and fingerprint ~= common.fingerprint then", "if false then"),
    Broken("half a record is made of what is missing", SETTLE, "elseif not entry and common.base.last < common.base.first then", "elseif false then"),
    Broken("a missing record stays missing", SETTLE, "elseif not entry and common.base.last < common.base.first then", "elseif not entry then"),
    Broken("a missing record is made without its first fields", SETTLE, "  if not entry then\n    redis.call('HSET'", "  if false then\n    redis.call('HSET'"),
    Broken("nothing is acknowledged", SETTLE, "  redis.call('XACK', stream, 'workers', unpack(entries))\n", ""),
    Broken("nothing is deleted", SETTLE, "    redis.call('XDEL', stream, unpack(rest))\n", ""),
    Broken("only the last of a batch is acknowledged", SETTLE, "entries[#entries + 1] = item.entry", "entries[1] = item.entry"),
    Broken("the urgent lane is not acknowledged", SETTLE, "acknowledge(root .. 'actions:urgent', finished.urgent)", ""),
    Broken("both lanes are the same", SETTLE, "acknowledge(root .. 'actions:urgent', finished.urgent)", "acknowledge(root .. 'actions', finished.urgent)"),
    Broken("trimming takes the oldest pending entry, too", SETTLE, "redis.call('XTRIM', stream, 'MINID', pending[1])", "redis.call('XTRIM', stream, 'MINID', entries[#entries]); redis.call('XDEL', stream, pending[1])"),
    Broken("trimming takes all that is settled for the oldest", SETTLE, "redis.call('XTRIM', stream, 'MINID', pending[1])", "redis.call('XTRIM', stream, 'MAXLEN', 0)"),
    Broken("a repeated settling does not acknowledge", SETTLE, "verdict = 'already'\n", "return 'already'\n", is_rare=True),
    Broken("no line in results", SETTLE, "redis.call('XADD', root .. 'results', ", "redis.call('XADD', root .. 'results', 'NOMKSTREAM', "),
    Broken("no tag in results", SETTLE, "unpack(ARGV, common.line.first, common.line.last))", "unpack(ARGV, 1, 0))"),
    Broken("no message", SETTLE, "  redis.call(publish, key, item.message)\n", ""),
    Broken("the reply channel is not told", SETTLE, "  if common.reply ~= '' then\n", "  if false then\n"),
    Broken("no copy in dead", SETTLE, "if common.dead.last > common.dead.first then", "if false then"),
    Broken("the record has no end", SETTLE, "redis.call('PEXPIRE', key, common.ttl_ms)", ""),
    Broken("a live call's record ends", SETTLE, "if call and call ~= 'ended' then", "if false then"),
    Broken("an ended call's record has no end", SETTLE, "if call and call ~= 'ended' then", "if call then"),
    Broken("the record of a call seen before its settling ends", SETTLE, "redis.call('PERSIST', key)", "redis.call('PEXPIRE', key, common.ttl_ms)"),
    Broken("a ChannelId is never given back", SETTLE, "    redis.call('HDEL', root .. 'legs', common.channel_id)\n", ""),
    Broken("another's ChannelId is given back", SETTLE, " and redis.call('HGET', root .. 'legs', common.channel_id) == item.id then", " then", is_rare=True),
    Broken("a live call's ChannelId is given back", SETTLE, "common.channel_id ~= '' and not call and", "common.channel_id ~= '' and", is_rare=True),
    Broken("done is revised", SETTLE, "if state ~= 'unknown' or entry", "if entry"),
    Broken("another entry's unknown is revised", SETTLE, "if state ~= 'unknown' or entry ~= item.entry or record[3] ~= common.lane then", "if state ~= 'unknown' then", is_rare=True),
    Broken("a revision is not told", SETTLE, "    tell(item, key)\n    return 'revised'", "    return 'revised'"),
    Broken("a revision keeps the old error", SETTLE, "redis.call('HDEL', key, 'error_code', 'error')", ""),
    Broken("a revision is another entry's end", SETTLE, "if common.revised == '1' then", "if false then"),
    # -- events
    Broken("a stale epoch publishes", EVENTS, STALE, "false"),
    Broken("a hole is not seen", EVENTS, "if seq and seq < first - 1 and ARGV[7] ~= ARGV[6] then", "if false then"),
    Broken("a hole that is known is one all the same", EVENTS, "and ARGV[7] ~= ARGV[6] then", "then"),
    Broken("events go out while memory is full", EVENTS, "#!lua", "#!lua flags=allow-oom"),
    Broken("a repeated batch is doubled", EVENTS, "done = (seq or 0) - first + 1", "done = 0"),
    Broken("a repeated batch is dropped, also what it has grown by", EVENTS, "  if i > done then", "  if done <= 0 then"),
    Broken("another epoch's numbers are taken for its own", EVENTS, "elseif tostring(message.epoch) == epoch then", "else"),
    Broken("one event too many is taken for out", EVENTS, "- first + 1", "- first + 2"),
    Broken("no legs are added", EVENTS, "    redis.call('HSET', legs, uniqueid, note.id)\n", ""),
    Broken("no legs are dropped", EVENTS, "    redis.call('HDEL', legs, uniqueid)\n", ""),
    Broken("half a record is made of a call", EVENTS, "if type(state) ~= 'string' or #note.fields == 0 then", "if #note.fields == 0 then"),
    Broken("legs of a call without a record are not noted", EVENTS, "local function note_call(note)\n", "local function note_call(note)\n  if redis.call('EXISTS', root .. 'action:' .. note.id) == 0 then return end\n"),
    Broken("a settled record lives on after its call", EVENTS, "redis.call('PEXPIRE', key, note.ttl_ms)", "redis.call('PERSIST', key)"),
    Broken("a record ends under its call", EVENTS, "  elseif FINAL[state] then\n    redis.call('PERSIST', key)", ""),
    Broken("an unsettled record ends with its call", EVENTS, "if FINAL[state] and note.ttl_ms then", "if note.ttl_ms then"),
    Broken("events are not in the stream", EVENTS, "  redis.call('XADD', stream, 'MAXLEN', '~', length, '*', 'event', item[1], 'data', item[2])\n", ""),
    Broken("events are not on their channels", EVENTS, "  if broadcast then", "  if false then"),
    Broken("actions do not hear of their events", EVENTS, "    redis.call(publish, root .. 'action:' .. id, item[2])\n", ""),
    Broken("events are published beyond the slot", EVENTS, "redis.call('PUBLISH', root .. 'event:'", "redis.call('PUBLISH', 'event:'"),
    Broken("events go out in reverse", EVENTS, "for i, item in ipairs(items) do\n  if i > done then\n    send(item)", "for i in ipairs(items) do\n  if i > done then\n    send(items[#items + done - i + 1] or items[i])"),
    # -- the lease
    Broken("the lease is held by two", "acquire", "if beat ~= dead_beat then", "if false then"),
    Broken("a dead worker keeps the lease", "acquire", "if beat ~= dead_beat then", "if true then"),
    Broken("its own lease is another's", "acquire", " and present ~= holder and", " and"),
    Broken("an epoch is handed out twice", "acquire", "math.max(count, floor) + 1", "count + 1"),
    Broken("an epoch has two holders", "acquire", "math.max(count, floor) + 1", "math.max(count, floor, 1)"),
    Broken("who only looks takes the lease", "acquire", "take == '0'", "false"),
    Broken("the lease has no end", "acquire", "holder, 'PX', life_ms)", "holder)"),
    Broken("a stale epoch renews the lease", "beat", STALE, "false"),
    Broken("a beat does not renew the lease", "beat", "redis.call('SET', root .. 'lease', ARGV[3], 'PX', ARGV[4])\n", ""),
    Broken("a heartbeat has no end", "beat", "redis.call('PEXPIRE', root .. 'worker', ARGV[5])\n", ""),
    Broken("a heartbeat is refused by a full Redis", "beat", "#!lua flags=allow-oom", "#!lua"),
    Broken("a stale epoch gives the lease back", "release", STALE, "false"),
    Broken("the heartbeat stays", "release", "redis.call('DEL', root .. 'worker')\n", ""),
    Broken("the lease stays", "release", "return redis.call('DEL', root .. 'lease')", "return redis.call('EXISTS', root .. 'lease')"),
)  # fmt: skip
