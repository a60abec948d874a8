"""What was put on one server's queue and is not settled yet, and how its result is found."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from broker.codec import Result, State
from broker.entry import decode_entry, fingerprint
from broker.errors import AmibusError, BusUnavailable, ErrorCode
from broker.keys import ACTIONS, Keys
from broker.link import Interrupted
from broker.messages import decoded
from broker.pipeline import Pipeline
from broker.record import Record, decode_record, result_of_fields, text_fields

FIRST_LOOK_S: Final = 1.0
"""After so long the record is read, in case the result's message was lost."""

NEXT_LOOK_S: Final = 5.0

MAX_LOOKS: Final = 500
"""Records read in one go, so that a thousand waiting callers do not keep an XADD waiting."""

MAX_EARLY: Final = 16
"""Results kept that came before the reply of their XADD."""

RESULTS_PAGE: Final = 1000

LOST_AFTER: Final = 3
"""So many looks in a row must find nothing of an action before it is given up for lost: the first at its record alone,
the others at its entry and at `results`, too."""

EXPIRY_S: Final = 30.0
"""Who may not look for his entry gives it up so long after its deadline: a worker would have said `expired`."""

GONE: Final = "its entry is gone, and nothing says what became of it: Redis has lost it, or somebody deleted it"
UNHEARD_OF: Final = (
    f"nothing was heard of it until {EXPIRY_S:g} s after its deadline, and this user may not look whether it is queued"
)


class Submission:
    """One action of ours.

    It is settled by the result of its own entry, and by no other's that has the same ActionID.
    """

    def __init__(self, action_id: str, fields: list[str], lane: str = ACTIONS) -> None:
        self.action_id = action_id
        self.fields = fields
        self.lane = lane
        self.entry: str | None = None
        self.result: Result | None = None
        self.next_look: float = 0.0
        self.may_have_missed = False
        self.misses = 0
        """How many looks in a row have found nothing of it."""
        self.on_news: Callable[[], None] = lambda: None
        self._early: list[Result] = []
        self._failure: AmibusError | None = None
        self._over = asyncio.get_running_loop().create_future()

    @property
    def action(self) -> str:
        """The action's name."""
        return self.fields[1]

    @property
    def places_call(self) -> bool:
        """Whether it is an Originate."""
        return self.action.lower() == "originate"

    def header(self, name: str) -> str | None:
        """The first value that was asked for under that name, in whatever case."""
        pairs = zip(self.fields[::2], self.fields[1::2], strict=True)
        return next((value for given, value in pairs if given.lower() == name.lower()), None)

    @cached_property
    def fingerprint(self) -> str:
        """What is asked for: two entries with one ActionID and one fingerprint are the same action."""
        pairs = list(zip(self.fields[::2], self.fields[1::2], strict=True))
        ours = [(name, value) for name, value in pairs[1:] if not _is_envelope(name)]
        return fingerprint(self.action, ours)

    @cached_property
    def deadline(self) -> float:
        """When it must not be sent any more, in unix seconds by Redis' clock."""
        return decode_entry(self.lane, self.entry or "", [text.encode() for text in self.fields]).deadline

    def added(self, entry: str) -> bool:
        """The XADD was answered: now it is known which results are ours. True: the record may tell more."""
        self.entry = entry
        early, self._early = self._early, []
        unsure = False
        for result in early:
            unsure = self.offer(result) or unsure
        return unsure

    def offer(self, result: Result) -> bool:
        """Take a result if it is ours. True: it may be ours, which only the record can tell."""
        if result.entry == self.entry:
            self.settle(result)
        elif self.entry is None:
            self._early = [*self._early[1 - MAX_EARLY :], result]
        else:
            # An entry of an XADD whose reply was lost, or of somebody who asked for the same thing before.
            return result.error_code != ErrorCode.ACTION_ID_REUSED
        return False

    def consider(self, record: Record) -> None:
        """Take the record's result, if the record is about what we asked for."""
        if record.result is not None and self.owns(record):
            self.settle(record.result)

    def owns(self, record: Record) -> bool:
        """Whether a record with our ActionID tells our fate, or that of another who used it for something else."""
        return record.entry == self.entry or record.fingerprint in ("", self.fingerprint)

    def settle(self, result: Result) -> None:
        """Take a result as ours. The latest wins: `unknown` alone is ever revised."""
        # Not always in so many words: an entry that was given up for lost may have been in a worker's hands.
        if self.result is not None and self.result.state is not State.UNKNOWN and not result.revised:
            return
        self.result = result
        self._finish()

    def fail(self, error: AmibusError) -> None:
        """End the waiting without a result."""
        self._failure = self._failure or error
        self._finish()

    async def settled(self) -> Result:
        """Wait for the result."""
        await asyncio.shield(self._over)
        if self.result is None:
            raise self._failure or BusUnavailable("the bus is closed")
        return self.result

    @property
    def is_open(self) -> bool:
        """Whether its record may tell more than is known: it has no result yet, or the correction of one that is
        `unknown` may have been missed."""
        if self.result is None:
            return True
        return self.may_have_missed and self.result.state is State.UNKNOWN

    @property
    def failure(self) -> AmibusError | None:
        """Why no result can be had any more (the bus was closed)."""
        return self._failure

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
        self.on_news()


def _is_envelope(name: str) -> bool:
    return name.lower() == "actionid" or name.lower().startswith("bus-")


class Submissions:
    """The submissions of one server that wait for a result, by ActionID.

    Results come as messages on the reply channel. A message can be lost, a record cannot: it is read whenever
    the subscription was interrupted, and now and then while somebody waits.
    """

    def __init__(self, keys: Keys, pipeline: Pipeline) -> None:
        self.keys = keys
        self._pipeline = pipeline
        self._by_id: dict[str, list[Submission]] = {}
        self._wake = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._is_blind = False
        """This user may not read the lanes: what is queued is not for every producer's eyes."""

    def register(self, submission: Submission) -> None:
        """Listen for this one's results."""
        submission.next_look = asyncio.get_running_loop().time() + FIRST_LOOK_S
        self._by_id.setdefault(submission.action_id, []).append(submission)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look_after(), name=f"amibus results of {self.keys.server}")

    def forget(self, submission: Submission) -> None:
        """Listen no more."""
        same = self._by_id.get(submission.action_id, [])
        if submission in same:
            same.remove(submission)
        if not same:
            self._by_id.pop(submission.action_id, None)

    def __len__(self) -> int:
        return len(self._by_id)

    def receive(self, data: bytes) -> None:
        """A message on the reply channel."""
        message = decoded(data, "a reply channel")
        if isinstance(message, Result):
            self.take(message)

    def take(self, result: Result) -> None:
        """A result from whatever channel."""
        for submission in tuple(self._by_id.get(result.action_id, ())):
            if submission.offer(result):
                self.look_soon(submission)

    def interrupted(self) -> None:
        """The reply channel was away: look at every record."""
        for same in self._by_id.values():
            for submission in same:
                submission.may_have_missed = True
                submission.next_look = 0.0
        self._wake.set()

    def look_soon(self, submission: Submission) -> None:
        """Read the record of this one at once."""
        submission.next_look = 0.0
        self._wake.set()

    async def look(self, submission: Submission, *, patiently: bool = False) -> Record | None:
        """Read the record, and settle by it what it settles.

        Raises `Interrupted` (unless patient), `BusUnavailable`.
        """
        run = self._pipeline.execute if patiently else self._pipeline.enqueue
        reply = await run("HGETALL", self.keys.action(submission.action_id))
        record = decode_record(self.keys.server, submission.action_id, reply)
        if record is not None:
            submission.consider(record)
        return record

    async def close(self, error: AmibusError) -> None:
        """End all waiting."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        for same in tuple(self._by_id.values()):
            for submission in tuple(same):
                submission.fail(error)
        self._by_id.clear()

    async def _look_after(self) -> None:
        while self._by_id:
            try:
                async with asyncio.timeout(FIRST_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            due = self._due()
            if due:
                await self._look_at(due)

    def _due(self) -> list[Submission]:
        now = asyncio.get_running_loop().time()
        due: list[Submission] = []
        for same in self._by_id.values():
            for submission in same:
                if submission.is_open and submission.entry is not None and submission.next_look <= now:
                    if len(due) == MAX_LOOKS:
                        self._wake.set()
                        return due
                    submission.next_look = now + NEXT_LOOK_S
                    due.append(submission)
        return due

    async def _look_at(self, due: list[Submission]) -> None:
        # Before the records: an entry goes in the same step that writes its record, so what is in neither is nowhere.
        queued = await self._queued([submission for submission in due if submission.misses])
        for submission in due:
            if submission.result is not None:  # one look will do, unless the channel is lost again in the middle of it
                submission.may_have_missed = False
        outcomes = await asyncio.gather(*(self.look(submission) for submission in due), return_exceptions=True)
        unheard_of: list[Submission] = []
        for submission, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, Interrupted):
                submission.next_look -= NEXT_LOOK_S - FIRST_LOOK_S
                submission.may_have_missed = True
            elif isinstance(outcome, AmibusError):
                submission.fail(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            elif outcome is not None and submission.owns(outcome):
                submission.misses = 0
            elif submission.result is None:
                unheard_of.append(submission)
        if unheard_of:
            await self._look_further(unheard_of, queued)

    async def _look_further(self, unheard_of: list[Submission], queued: dict[Submission, bool]) -> None:
        """What becomes of those that have no record; `queued`: whether the entries of some are in their lanes."""
        missing = [each for each in unheard_of if each.may_have_missed or queued.get(each) is False]
        if missing and not await self._look_in_results(missing):
            return
        for submission in unheard_of:
            submission.misses = submission.misses + 1 if queued.get(submission) is False else 1
            if submission.result is None and submission.misses >= LOST_AFTER:
                submission.settle(self._lost(submission, GONE))
        if self._is_blind:
            await self._give_up_expired(unheard_of)

    async def _queued(self, submissions: list[Submission]) -> dict[Submission, bool]:
        """Whether the entry of each is in its lane; nothing of those of which that cannot be told now."""
        if self._is_blind:
            return {}
        looks = [
            self._pipeline.enqueue("XRANGE", self.keys.lane(each.lane), each.entry or "", each.entry or "")
            for each in submissions
        ]
        queued: dict[Submission, bool] = {}
        for submission, outcome in zip(submissions, await asyncio.gather(*looks, return_exceptions=True), strict=True):
            if isinstance(outcome, list):
                queued[submission] = bool(outcome)
            elif not isinstance(outcome, Interrupted):
                self._is_blind = True
        return queued

    async def _look_in_results(self, missing: list[Submission]) -> bool:
        """Whether they were found, or all was seen that this user may read."""
        # An entry that was refused leaves no record, or another's: if its message was lost, only `results`
        # knows.
        by_entry = {submission.entry: submission for submission in missing}
        start = min(entry.partition("-")[0] for entry in by_entry if entry is not None)
        while True:
            try:
                page: list[Any] = await self._pipeline.enqueue(
                    "XRANGE", self.keys.results, start, "+", "COUNT", RESULTS_PAGE
                )
            except Interrupted:
                return False
            except BusUnavailable:  # this user may not read `results`: then the slow look at the record is all there is
                return True
            for _, raw in page:
                fields = text_fields(dict(zip(raw[::2], raw[1::2], strict=True)))
                submission = by_entry.get(fields.get("entry", ""))
                if submission is not None and fields.get("action_id") == submission.action_id:
                    submission.settle(result_of_fields(self.keys.server, submission.action_id, fields))
            if len(page) < RESULTS_PAGE:
                return True
            start = f"({page[-1][0].decode()}"

    async def _give_up_expired(self, submissions: list[Submission]) -> None:
        """Wait no longer for those whose deadline is so long past that a worker would have said so."""
        try:
            seconds, _ = await self._pipeline.enqueue("TIME")
        except BusUnavailable:
            return
        for submission in submissions:
            if submission.result is None and int(seconds) > submission.deadline + EXPIRY_S:
                submission.settle(self._lost(submission, UNHEARD_OF))

    def _lost(self, submission: Submission, why: str) -> Result:
        fields = {
            "entry": submission.entry or "",
            "action": submission.action,
            "producer": submission.header("Bus-Producer") or "",
            "tag": submission.header("Bus-Tag") or "",
            "state": State.UNKNOWN,
            "error_code": ErrorCode.ENTRY_LOST,
            "message": why,
        }
        return result_of_fields(self.keys.server, submission.action_id, fields)
