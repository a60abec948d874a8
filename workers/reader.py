"""Entries in: the doorbell, the consumer group, and the pending list of this consumer."""

from collections.abc import Collection, Sequence
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from broker.entry import Request, decode_entry
from broker.keys import GROUP, LANES
from workers.config import Settings
from workers.outage import outage

DOORBELL_MS: Final = 1000
"""The longest wait for a doorbell; entries are asked for afterwards, whatever it said."""

READ_COUNT: Final = 256
"""Entries taken per read: enough to fill a batch, few enough to stay quick."""

log = structlog.get_logger()

RawEntry = tuple[bytes, list[bytes] | None]


class Reader:
    """Takes entries of both lanes for one consumer. Does not decide anything: what it returns is pending, no more."""

    def __init__(self, redis: "Redis", settings: Settings) -> None:
        # redis-py makes a dict of an entry, and so loses repeated fields: the raw pairs are wanted.
        for command in ("XREADGROUP", "XREAD", "XAUTOCLAIM", "XCLAIM", "XPENDING"):
            redis.set_response_callback(command, lambda response, **_: response)
        self._redis = redis
        self._keys = settings.keys
        self._consumer = settings.name
        self._last = dict.fromkeys(LANES, "0-0")
        """The newest entry seen of each lane, for the doorbell."""
        self._suspects: dict[str, set[str]] = {lane: set() for lane in LANES}
        """The entries that were missing at the last look."""

    async def make_groups(self) -> None:
        """Create the group on both lanes, at 0: what was queued before the first start, or a flush, is not skipped."""
        for lane in LANES:
            try:
                await self._redis.xgroup_create(self._keys.lane(lane), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            else:
                # What the doorbell waited for may be of a stream that is no more.
                self._last[lane] = "0-0"

    async def doorbell(self, lanes: Sequence[str] = LANES) -> None:
        """Wait until there may be something to read of these lanes.

        A plain XREAD has no side effect: cancelling it loses nothing. Leave out a lane of which nothing will be taken
        now: its entries would ring without end.
        """
        streams: list[Any] = [self._keys.lane(lane) for lane in lanes]
        await self._command(
            "XREAD", "COUNT", 1, "BLOCK", DOORBELL_MS, "STREAMS", *streams, *[self._last[lane] for lane in lanes]
        )

    async def read(self, lanes: Sequence[str], count: int) -> list[Request]:
        """Take up to `count` new entries of each of these lanes, without waiting."""
        streams = {self._keys.lane(lane).encode(): lane for lane in lanes}
        answer = await self._group_command(
            "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, "STREAMS", *streams, *[">"] * len(streams)
        )
        requests: list[Request] = []
        for stream, entries in answer or ():
            lane = streams[stream]
            self._note_seen(lane, entries)
            requests += [_request(lane, entry) for entry in entries]
        return requests

    async def claim_all(self, lane: str) -> tuple[list[Request], list[str]]:
        """Take over the whole pending list of the group, whoever has it. Returns also the ids of those that have
        vanished from their stream."""
        requests: list[Request] = []
        gone: list[str] = []
        start: Any = "0-0"
        while True:
            answer = await self._group_command(
                "XAUTOCLAIM", self._keys.lane(lane), GROUP, self._consumer, 0, start, "COUNT", READ_COUNT
            )
            start, entries, deleted = answer or (b"0-0", [], [])
            requests += self._claimed(lane, entries)
            gone += [entry.decode() for entry in deleted]
            if start in (b"0-0", "0-0"):
                _tell_vanished(lane, gone)
                return requests, gone

    async def missed(
        self, lane: str, held: Collection[str], most: int, *, surely: bool = False
    ) -> tuple[list[Request], list[str]]:
        """The entries that are pending and that we do not hold: the reply to a read was lost on the way, or a worker
        that had lost its lease read once more before it knew. Returns also the ids of those that have vanished from
        their stream, which stay pending.

        `held` is looked at when Redis has answered. Entries newer than all that has been read may still be on their
        way: they are missed only if they are missing at the next look, too. `surely`: no read is under way.
        """
        pending = await self._group_command("XPENDING", self._keys.lane(lane), GROUP, "-", "+", most)
        missing = {entry.decode() for entry, *_ in pending or ()}.difference(held)
        last = _order(self._last[lane])
        newer = set() if surely else {entry for entry in missing if _order(entry) > last}
        new = newer - self._suspects[lane]
        self._suspects[lane] = new
        if missing == new:
            return [], []
        # XCLAIM would make the group forget what is in the stream no more, before anything is said of it.
        vanished = await self._vanished(lane, sorted(missing - new, key=_order))
        claimed = sorted(missing.difference(new, vanished), key=_order)
        entries: Any = None
        if claimed:
            entries = await self._group_command("XCLAIM", self._keys.lane(lane), GROUP, self._consumer, 0, *claimed)
        return self._claimed(lane, entries or []), vanished

    async def _vanished(self, lane: str, entries: Sequence[str]) -> list[str]:
        """Which of these are pending, and in the stream no more. What was settled a moment ago is neither."""
        stream = self._keys.lane(lane)
        async with self._redis.pipeline(transaction=True) as commands:
            for entry in entries:
                commands.execute_command("XRANGE", stream, entry, entry)
                commands.execute_command("XPENDING", stream, GROUP, entry, entry, 1)
            answers = await commands.execute(raise_on_error=False)
        pairs = zip(answers[::2], answers[1::2], strict=True)
        # A group that is gone is an error, and says nothing of them.
        vanished = [
            entry
            for entry, (there, pending) in zip(entries, pairs, strict=True)
            if there == [] and isinstance(pending, list) and pending
        ]
        _tell_vanished(lane, vanished)
        return vanished

    def _claimed(self, lane: str, entries: list[Any]) -> list[Request]:
        present: list[RawEntry] = [entry for entry in entries if entry is not None and entry[1] is not None]
        self._note_seen(lane, present)
        return [_request(lane, entry) for entry in present]

    def _note_seen(self, lane: str, entries: list[RawEntry]) -> None:
        # Also of what was taken over: while it waits it stays in the stream, and would ring the doorbell without end.
        if entries:
            self._last[lane] = max(self._last[lane], entries[-1][0].decode(), key=_order)

    async def _command(self, *args: Any) -> Any:
        return await self._redis.execute_command(*args)  # type: ignore[no-untyped-call]

    async def _group_command(self, *args: Any) -> Any:
        """None: the group was gone, by FLUSHALL, XGROUP DESTROY or DEL, and is there again."""
        try:
            return await self._command(*args)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            if outage().is_news("group"):
                log.warning("the consumer group was gone: created again", error=str(error))
            await self.make_groups()
            return None


def _tell_vanished(lane: str, entries: Sequence[str]) -> None:
    if entries:
        log.error(
            "pending entries have vanished from their stream: XADD with MAXLEN, XTRIM or XDEL by somebody else",
            lane=lane,
            entries=sorted(entries),
        )


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _request(lane: str, entry: RawEntry) -> Request:
    return decode_entry(lane, entry[0].decode(), entry[1] or [])
