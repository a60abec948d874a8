"""What was in flight when a worker was lost: found in the group's pending list by the next holder of the lease."""

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

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
            for entry in gone:
                await self._entry_lost(lane, entry)

    async def _take_over(self, request: Request) -> None:
        # What changes something and was begun is settled at once: it need not wait for Asterisk or its turn.
        state, entry = await until_done("a record", lambda: self._read_record(request.action_id))
        begun = state in (b"sending", b"sent") and entry == request.entry.encode()
        if begun and not self._may_repeat(request):
            await self._worker.settle(request, WORKER_LOST)
        else:
            self._worker.take([request])

    async def _read_record(self, action_id: str) -> list[bytes | None]:
        try:
            record: list[Any] = await self._redis.hmget(self._keys.action(action_id), ["state", "entry"])
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE "):
                raise
            return [None, None]  # something else has its place: marking it says what comes of that
        return record

    def _may_repeat(self, request: Request) -> bool:
        try:
            return request.refusal is None and make_job(request, self._settings.server).reads_only
        except Refused:
            return False  # an older version, with other rules, had begun it

    async def _entry_lost(self, lane: str, entry: str) -> None:
        """Somebody trimmed or deleted a pending entry, and its ActionID with it: it is settled by its own id."""
        log.error(
            "a pending entry has vanished from its stream: XADD with MAXLEN, XTRIM or XDEL by somebody else",
            lane=lane,
            entry=entry,
        )
        request = Request(lane, entry, entry_action_id(lane, entry))
        message = "its stream entry vanished: somebody trimmed or deleted it"
        await self._worker.settle(request, Outcome(State.UNKNOWN, code=ErrorCode.ENTRY_LOST, message=message))
