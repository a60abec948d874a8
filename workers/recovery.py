"""What was in flight when a worker was lost: found in the group's pending list by the next holder of the lease."""

from typing import Any, Final

import structlog
from redis.asyncio import Redis

from broker.codec import State
from broker.entry import Request, entry_action_id
from broker.errors import ErrorCode, Refused
from broker.keys import LANES
from workers.action_worker import WORKER_LOST, ActionWorker
from workers.batch import until_done
from workers.config import Settings
from workers.job import make_job
from workers.outcome import Outcome
from workers.reader import Reader
from workers.record_fields import record_fields

SCAN_COUNT: Final = 500
"""Keys looked at in one step of a search through all records."""

log = structlog.get_logger()


class Recovery:
    """Takes over the whole pending list. The lease makes idle times needless: nobody else can be working on it."""

    def __init__(self, redis: "Redis", settings: Settings, reader: Reader, worker: ActionWorker) -> None:
        self._redis = redis
        self._keys = settings.keys
        self._reader = reader
        self._worker = worker
        self._settings = settings

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
        names = ["state", "entry", "epoch", "sending_at"]
        state, entry, epoch, sending_at = await record_fields(self._redis, self._keys, request.action_id, names)
        if state not in (b"sending", b"sent") or entry != request.entry.encode():
            self._worker.take([request])
            return
        try:
            if request.refusal is not None:
                raise request.refusal
            job = make_job(request, self._settings.server)
        except Refused:  # an older version, with other rules, had begun it
            await self._worker.settle([(request, WORKER_LOST, None)])
            return
        job.epoch, job.sending_at = int(epoch or 0), float(sending_at or 0) or None
        self._worker.take_over(job)

    async def _entries_lost(self, lane: str, entries: set[str]) -> None:
        """Somebody trimmed or deleted pending entries, and their ActionIDs with them: the records know these."""
        log.error(
            "pending entries have vanished from their stream: XADD with MAXLEN, XTRIM or XDEL by somebody else",
            lane=lane,
            entries=sorted(entries),
        )
        outcome = Outcome(
            State.UNKNOWN,
            code=ErrorCode.ENTRY_LOST,
            message="its stream entry vanished: somebody trimmed or deleted it",
        )
        for action_id, entry, action, producer in await self._begun_records(lane, entries):
            entries.discard(entry)
            request = Request(lane, entry, action_id, action=action, name=action, producer=producer)
            await self._worker.settle([(request, outcome, None)])
        for entry in sorted(entries):
            await self._worker.settle([(Request(lane, entry, entry_action_id(lane, entry)), outcome, None)])

    async def _begun_records(self, lane: str, entries: set[str]) -> list[tuple[str, str, str, str]]:
        """ActionID, entry, action and producer of the records that were begun by one of these entries."""
        prefix = self._keys.action("")
        names = ["state", "lane", "entry", "action", "producer"]
        found = []
        key: Any
        async for key in self._redis.scan_iter(match=f"{prefix}*", count=SCAN_COUNT, _type="HASH"):
            values: Any = await self._redis.hmget(key, names)
            fields = [value.decode() if value else "" for value in values]
            state, begun_lane, entry, action, producer = fields
            if state in ("sending", "sent") and begun_lane == lane and entry in entries:
                found.append((key.decode().removeprefix(prefix), entry, action, producer))
        return found
