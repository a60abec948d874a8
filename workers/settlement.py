"""How an action ends: `Settlement.settle`."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog
from redis.asyncio import Redis

from broker.codec import State
from broker.entry import Request, entry_action_id
from broker.errors import ErrorCode, Refused
from broker.scripts import MAX_BATCH, Item, Script
from workers.batch import DEPTH, Batch
from workers.calls import Calls
from workers.clock import ServerClock
from workers.config import Settings
from workers.items import ITEMS_LOST, Chunks, Items, are_many
from workers.job import Job
from workers.logs import trace_of
from workers.outcome import Outcome
from workers.records import Records

log = structlog.get_logger()

ANSWER_STATES: Final = frozenset((State.DONE, State.FAILED))
"""What Asterisk's whole answer makes of an action."""

ENTRY_VANISHED: Final = Outcome(
    State.UNKNOWN, code=ErrorCode.ENTRY_LOST, message="its stream entry vanished: somebody trimmed or deleted it"
)

Fate = tuple[Request, Outcome, Job | None]
"""An entry's final state; the job is missing where none could be made of it."""


class Settlement:
    """Writes down what became of entries, in the name of one tenure, and counts it."""

    def __init__(
        self, redis: "Redis", settings: Settings, *, epoch: int, clock: ServerClock, calls: Calls, records: Records,
        publish: str,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._settings = settings
        self._epoch = epoch
        self._clock = clock
        self._calls = calls
        self._records = records
        self._publish = publish
        self._chunks = Chunks(redis, settings)
        self._script = Script("settle", settings.keys)
        self._settles: Batch[Item, str] = Batch("settling", self._send, DEPTH)
        self._tells_all = settings.log_level == "debug"
        self.totals: Counter[str] = Counter()
        """By final state."""
        self.duplicates = 0

    def close(self) -> None:
        """Give up what has not gone out."""
        self._settles.close()

    async def settle(self, fates: Sequence[Fate]) -> None:
        """The final states: record, results, message and acknowledgement in one script."""
        for _, outcome, job in fates:
            if job is None:
                continue
            if job.noted is not None:
                await job.noted  # `sent` is said before the end is
            if (outcome.events or job.items) and outcome.state in ANSWER_STATES:
                await self._put_items(job, outcome)
        at, epoch = self._clock.now(), self._epoch
        items = [self._records.settle(request, outcome, at, job, epoch) for request, outcome, job in fates]
        for fate, verdict in zip(fates, await self._settles.add_all(items), strict=True):
            request, outcome, job = fate
            if verdict == "missing":
                # Redis went back in time, or the record was deleted: it is made anew, so that the fate is known all
                # the same.
                item = self._records.settle(request, outcome, at, job, epoch, whole=True)
                verdict = await self._settles.add(item)  # noqa: PLW2901
            elif verdict == "reused":
                outcome = reused(request)
                item = self._records.settle(request, outcome, at, None, epoch)
                verdict = await self._settles.add(item)  # noqa: PLW2901
            if verdict in ("settled", "apart"):
                self.totals[outcome.state] += 1
                self._log(request, outcome)
            elif verdict == "duplicate":
                self.duplicates += 1
            if job is not None and job.channel_id and not job.is_ruled_out and outcome.state is State.UNKNOWN:
                self._calls.doubt(request.action_id, job.channel_id)

    async def settle_vanished(self, lane: str, entries: Sequence[str]) -> None:
        """The end of pending entries that somebody trimmed or deleted, and their ActionIDs with them."""
        requests = [Request(lane, entry, entry_action_id(lane, entry)) for entry in entries]
        for first in range(0, len(requests), MAX_BATCH):
            await self.settle([(each, ENTRY_VANISHED, None) for each in requests[first : first + MAX_BATCH]])

    async def _put_items(self, job: Job, outcome: Outcome) -> None:
        """Let a result that would be very large come without its items: these are put beside its record."""
        if job.items is None and not are_many(outcome.events):
            return
        items = self.items_of(job)
        if not await items.add_last(outcome.events):
            outcome.state, outcome.code, outcome.message = State.UNKNOWN, ErrorCode.RECORD_LOST, ITEMS_LOST
            outcome.events = []
        elif items.are_apart:
            outcome.events, outcome.items = [], items
        else:
            outcome.events = items.few

    def items_of(self, job: Job) -> Items:
        """Where the items of its list go as they come."""
        if job.items is None:
            job.items = self._chunks.of(job.request.action_id, job.epoch or self._epoch)
        return job.items

    def _log(self, request: Request, outcome: Outcome) -> None:
        if outcome.state in ANSWER_STATES:
            if self._tells_all:
                log.debug(
                    "settled", action=request.action, action_id=request.action_id, state=outcome.state,
                    code=outcome.code, **trace_of(request.traceparent),
                )  # fmt: skip
        else:
            say = log.warning if outcome.state is State.UNKNOWN else log.info  # which somebody is to look into
            say(
                "settled", action=request.action[:80], action_id=request.action_id, entry=request.entry,
                producer=request.producer, state=outcome.state, code=outcome.code, why=outcome.message,
                **trace_of(request.traceparent),
            )  # fmt: skip

    async def _send(self, items: list[Item]) -> list[str]:
        settings = self._settings
        verdicts: list[bytes] = await self._script(
            self._redis, self._epoch, self._publish, settings.results_length, settings.dead_length, items
        )
        return [verdict.decode() for verdict in verdicts]


def refused(refusal: Refused) -> Outcome:
    """The end of what was not sent."""
    return Outcome(State.REJECTED, code=ErrorCode(refusal.code), message=str(refusal))


def reused(request: Request) -> Outcome:
    """The end of an entry whose ActionID is that of another action."""
    why = f"ActionID {request.action_id} was already used for something else"
    return refused(Refused(ErrorCode.ACTION_ID_REUSED, why))
