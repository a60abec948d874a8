"""Entries in: the doorbell, the consumer group, and the pending list of this consumer."""

from collections.abc import Callable, Collection, Sequence
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
        for command in ("XREADGROUP", "XREAD", "XCLAIM", "XPENDING"):
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
        vanished from their stream, which stay pending until they are settled."""
        requests: list[Request] = []
        vanished: list[str] = []
        start = "-"
        while True:
            pending = await self._pending(lane, start, READ_COUNT)
            claimed, gone = await self._claim(lane, pending)
            requests += claimed
            vanished += gone
            if len(pending) < READ_COUNT:
                return requests, vanished
            start = f"({pending[-1]}"

    async def missed(
        self, lane: str, held: Collection[str], most: int, *, surely: bool = False
    ) -> tuple[list[Request], list[str]]:
        """The entries that are pending and that we do not hold: the reply to a read was lost on the way, or a worker
        that had lost its lease read once more before it knew. Returns also the ids of those that have vanished from
        their stream, which stay pending until they are settled.

        `held` is looked at when Redis has answered. Entries newer than all that has been read may still be on their
        way: they are missed only if they are missing at the next look, too. `surely`: no read is under way.
        """
        missing = set(await self._pending(lane, "-", most)).difference(held)
        last = _order(self._last[lane])
        newer = set() if surely else {entry for entry in missing if _order(entry) > last}
        new = newer - self._suspects[lane]
        self._suspects[lane] = new
        requests, vanished = await self._claim(lane, sorted(missing - new, key=_order))
        # Another look may have taken them meanwhile, before they vanished.
        return requests, [entry for entry in vanished if entry not in held]

    async def _pending(self, lane: str, start: str, most: int) -> list[str]:
        answer = await self._group_command("XPENDING", self._keys.lane(lane), GROUP, start, "+", most)
        return [entry.decode() for entry, *_ in answer or ()]

    async def _claim(self, lane: str, entries: Sequence[str]) -> tuple[list[Request], list[str]]:
        """Take over these pending entries, and name those that have vanished: of them XCLAIM would say nothing, and
        make the group forget them before their fate is told."""
        absent = await self._each(entries, lambda entry: ("XRANGE", self._keys.lane(lane), entry, entry))
        # What was settled a moment ago is not in the stream either, but not pending any more.
        pending = await self._each(
            [entry for entry, found in absent.items() if found == []],
            lambda entry: ("XPENDING", self._keys.lane(lane), GROUP, entry, entry, 1),
        )
        vanished = [entry for entry, found in pending.items() if isinstance(found, list) and found]
        if vanished:
            log.error(
                "pending entries have vanished from their stream: XADD with MAXLEN, XTRIM or XDEL by somebody else",
                lane=lane, entries=vanished,
            )  # fmt: skip
        claimed = [entry for entry in entries if entry not in pending]
        if not claimed:
            return [], vanished
        answer = await self._group_command("XCLAIM", self._keys.lane(lane), GROUP, self._consumer, 0, *claimed)
        return self._claimed(lane, answer or []), vanished

    async def _each(self, entries: Sequence[str], command: Callable[[str], Sequence[Any]]) -> dict[str, Any]:
        """The answer to a command for each of these entries; a refusal is its error."""
        if not entries:
            return {}
        async with self._redis.pipeline(transaction=False) as commands:
            for entry in entries:
                commands.execute_command(*command(entry))
            return dict(zip(entries, await commands.execute(raise_on_error=False), strict=True))

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


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _request(lane: str, entry: RawEntry) -> Request:
    return decode_entry(lane, entry[0].decode(), entry[1] or [])
