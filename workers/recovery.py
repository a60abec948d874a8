"""What was in flight when a worker was lost: found in the group's pending list by the next holder of the lease."""

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple, Self

import structlog
from redis.asyncio import Redis

from broker.codec import BadMessage, State
from broker.entry import Request, own_channel_id
from broker.errors import ErrorCode, Refused
from broker.keys import LANES
from broker.record import request_headers
from workers.action_worker import ActionWorker
from workers.batch import until_done
from workers.calls import Calls
from workers.config import Settings
from workers.job import MARK, make_job
from workers.lease import Lease
from workers.lost_work import WORKER_LOST
from workers.outcome import Outcome
from workers.own_actions import is_own
from workers.reader import Reader
from workers.record_fields import many_record_fields, record_fields
from workers.settlement import ENTRY_VANISHED

SCAN_COUNT: Final = 500
"""Keys looked at in one step of a search through all records."""

TOLD: Final = 10
"""So many keys of unreadable records are named."""

BEGUN: Final = (b"sending", b"sent")
"""The states of a record whose action is under way, or was when its worker was lost."""

ENTRY_FORGOTTEN: Final = Outcome(
    State.UNKNOWN,
    code=ErrorCode.RECORD_LOST,
    message="Redis went back in time and forgot its entry; then its end was forgotten, too, or its worker was lost",
)

_ENTRY: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
"""An entry's id that Redis takes: each of its numbers is surely below 2^64."""

log = structlog.get_logger()


class Begun(NamedTuple):
    """What a record says of an action that was begun and not settled."""

    action_id: str
    lane: str
    entry: str
    action: str
    producer: str
    reply: str
    tag: str
    traceparent: str

    @classmethod
    def read(cls, action_id: bytes, values: Sequence[bytes | None]) -> Self:
        """What is in the fields of a record, in the order in which they stand here. Raises `BadMessage` where it cannot
        be told what they are of."""
        try:
            begun = cls(action_id.decode(), *[(value or b"").decode(errors="replace") for value in values])
        except UnicodeDecodeError as error:
            raise BadMessage(f"its ActionID is no text: {error}") from error
        if begun.lane not in LANES or not _ENTRY.fullmatch(begun.entry):
            raise BadMessage("it does not say which entry it is of")
        return begun

    @property
    def request(self) -> Request:
        """As much of it as is known."""
        return Request(
            self.lane, self.entry, self.action_id, action=self.action, name=self.action, producer=self.producer,
            reply=self.reply, tag=self.tag, traceparent=self.traceparent,
        )  # fmt: skip


class Recovery:
    """Takes over the whole pending list. The lease makes idle times needless: nobody else can be working on it."""

    def __init__(
        self, redis: "Redis", settings: Settings, lease: Lease, reader: Reader, worker: ActionWorker, calls: Calls
    ) -> None:
        self._redis = redis
        self._lease = lease
        self._keys = settings.keys
        self._reader = reader
        self._worker = worker
        self._settings = settings
        self._calls = calls
        self._unreadable: set[bytes] = set()
        """The keys of records of which it was said that they cannot be read."""

    async def run(self) -> None:
        """Hand every pending entry on: what was never begun as if it were new, the rest as its kind allows."""
        await until_done("the consumer group", self._reader.make_groups)
        for lane in LANES:
            requests, gone = await until_done("pending entries", lambda: self._reader.claim_all(lane))  # noqa: B023
            if requests or gone:
                log.info("taking over pending entries", lane=lane, entries=len(requests), gone=len(gone))
            for request in requests:
                await self._take_over(request)
            if gone:
                await self._entries_lost(lane, set(gone))

    async def _take_over(self, request: Request) -> None:
        names = ["state", "entry", *MARK]
        state, entry, *mark = await record_fields(self._redis, self._keys, request.action_id, names)
        if is_own(request) or state not in BEGUN or entry != request.entry.encode():
            self._worker.take([request])
            return
        try:
            if request.refusal is not None:
                raise request.refusal
            job = make_job(request, self._settings.server)
        except Refused:  # an older version, with other rules, had begun it
            await self._worker.settlement.settle([(request, WORKER_LOST, None)])
            return
        job.was_marked(*mark)
        self._worker.take_over(job)

    async def _entries_lost(self, lane: str, entries: set[str]) -> None:
        """Somebody trimmed or deleted pending entries, and their ActionIDs with them: the records know these."""
        begun_ones = await until_done("what was begun", self._all_begun)
        for begun in [each for each in begun_ones if each.lane == lane and each.entry in entries]:
            entries.discard(begun.entry)
            await self._settle(begun, ENTRY_VANISHED)
        await self._worker.settlement.settle_vanished(lane, sorted(entries))

    async def look_for_forgotten(self) -> None:
        """Settle what was begun and has no entry any more, once after Redis may have gone back in time.

        A worker begins what it holds in memory, whether or not a Redis that went back in time still has the entry. If
        it is lost then, the pending list knows nothing of that.

        To be called after `run`, and beside the serving, for there may be a million records. That is safe: what is
        looked for can not be sent again meanwhile, since its record stands; another entry with its ActionID is a
        duplicate by that, and another call with its ChannelId is refused by `legs`, before the search as after it. What
        is begun meanwhile has its entry on this Redis, and is held: it is not taken for forgotten, and of it the next
        worker hears by the pending list, so that this Redis counts as searched all the same.
        """
        known_by, keys = await until_done("what Redis is", self._lease.identify_redis), self._keys
        (searched,) = await until_done("the last search", lambda: self._redis.hmget(keys.holder, ["searched"]))
        if searched == known_by.encode():
            return
        await self.settle_forgotten()
        await until_done("this search", lambda: self._redis.hset(keys.holder, mapping={"searched": known_by}))

    async def settle_forgotten(self) -> None:
        """Settle what was begun, has no entry any more and is not held. Also for a worker that lives on: Redis may have
        gone back a second time, and have forgotten how it ended.

        What is held has then yet to end, so that whoever comes next has to look again.
        """
        begun = await until_done("what was begun", self._forgotten)
        for each in begun:
            await self._settle(each, ENTRY_FORGOTTEN)
        if begun:
            log.error("redis has gone back in time, and forgot entries that were begun", records=len(begun))

    async def _settle(self, begun: Begun, outcome: Outcome) -> None:
        """Settle as `unknown`; of a call the truth may be seen yet."""
        if begun.action.lower() != "originate":
            await self._worker.settlement.settle([(begun.request, outcome, None)])
            return
        channel_id = await self._channel_id(begun.action_id)
        self._calls.doubt(begun.action_id, channel_id)  # what is seen from now on is not missed
        await self._worker.settlement.settle([(begun.request, outcome, None)])
        self._calls.doubt(begun.action_id, channel_id)  # what was seen before it was settled is told now

    async def _channel_id(self, action_id: str) -> str:
        """The ChannelId of an Originate that was begun."""
        (packed,) = await record_fields(self._redis, self._keys, action_id, ["request"])
        asked = None
        with contextlib.suppress(BadMessage):  # somebody else's work: it must not end the worker
            asked = request_headers(packed or b"").get("ChannelId")
        return asked or own_channel_id(self._settings.server, action_id)

    async def _forgotten(self) -> list[Begun]:
        """What was begun, no lane has any more, and no task of ours has in hand."""
        # Those of our own epoch, too: a Redis that went back in time may have handed it out before.
        return [each for each in await self._all_begun() if await self._is_forgotten(each)]

    async def _all_begun(self) -> list[Begun]:
        return [each async for each in self._begun_records()]

    async def _is_forgotten(self, begun: Begun) -> bool:
        if await self._redis.xrange(self._keys.lane(begun.lane), begun.entry, begun.entry):
            return False
        if self._worker.intake.is_held(begun.request):
            return False
        # An entry goes when its action is settled: that may have been since the record was read.
        state, entry = await record_fields(self._redis, self._keys, begun.action_id, ["state", "entry"])
        return state in BEGUN and entry == begun.entry.encode()

    async def _begun_records(self) -> AsyncIterator[Begun]:
        """All that was begun and is not settled."""
        prefix = self._keys.action("")
        names = ["state", *Begun._fields[1:]]
        unreadable: set[bytes] = set()
        async for records in self._pages(f"{prefix}*"):
            found = await many_record_fields(self._redis, records, names)
            for key, values in zip(records, found, strict=True):
                if values[0] not in BEGUN:
                    continue
                try:
                    begun = Begun.read(key.removeprefix(prefix.encode()), values[1:])
                except BadMessage:
                    unreadable.add(key)
                else:
                    yield begun
        self._tell_unreadable(unreadable)

    def _tell_unreadable(self, records: set[bytes]) -> None:
        """Once of each: somebody else wrote them, and nobody knows what to settle."""
        if new := records - self._unreadable:
            some = [key.decode(errors="replace") for key in sorted(new)[:TOLD]]
            log.error("records of what was begun cannot be read", records=len(new), some=some)
        self._unreadable |= new

    async def _pages(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """The keys of all hashes with such names, as one step of the search after the other finds them."""
        cursor = -1
        while cursor:
            answer: Any = await self._redis.scan(max(cursor, 0), match=pattern, count=SCAN_COUNT, _type="HASH")
            cursor, records = answer
            if records:
                yield records
