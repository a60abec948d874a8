"""The whole life of an entry: `ActionWorker.handle`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final, cast

import structlog
from redis.asyncio import Redis

from broker.ami import Event, Exchange, Response
from broker.codec import State
from broker.entry import Request
from broker.errors import ErrorCode, Refused
from broker.noise import without_noise
from broker.scripts import Item, Script
from workers.batch import DEPTH, Batch
from workers.calls import Calls
from workers.clock import ServerClock
from workers.config import Settings
from workers.connection import AnswerTimeout, ConnectionLost, Unanswered
from workers.diary import Diary
from workers.intake import Intake
from workers.job import Job, make_job
from workers.journal import JournalFull
from workers.lease import Lease, LeaseLost
from workers.lost_work import RECORD_LOST, LostWork
from workers.originates import Originates, unknown
from workers.outcome import Next, Outcome, outcome_of
from workers.own_actions import OwnActions, is_own
from workers.policy import Policy
from workers.reader import Reader
from workers.records import Records
from workers.schedule import MAX_GROUP, Schedule, Turn
from workers.sessions import Sessions
from workers.settlement import Fate, Settlement, refused, reused

REPEATS: Final = 3
"""How often a read-only action is asked again when its session, or its answer, was lost."""

DISK_RETRY_S: Final = 1.0
"""How soon a disk that was full is tried again."""

TOLD: Final = 5
"""So many ActionIDs the log names of those that a stop leaves in flight."""

log = structlog.get_logger()


Told = tuple[Job, Outcome | Next]
"""What became of a job."""


class ActionWorker:
    """Takes entries, sends what may be sent, and settles each exactly once."""

    def __init__(
        self, redis: "Redis", settings: Settings, *, lease: Lease, clock: ServerClock, sessions: Sessions,
        schedule: Schedule, calls: Calls, originates: Originates, diary: Diary, reader: Reader, publish: str,
        own: OwnActions, lost_work: LostWork,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._settings = settings
        self._lease = lease
        self._epoch = lease.epoch
        """Of this tenure: what outlives it must not go on in the name of a later one, which may be another's."""
        self._clock = clock
        self._sessions = sessions
        self._schedule = schedule
        self._calls = calls
        self._originates = originates
        self._diary = diary
        self._publish = publish
        self._own = own
        self._lost_work = lost_work
        self._policy = Policy(settings.allow)
        self._records = Records(settings)
        self._scripts = {name: Script(name, settings.keys) for name in ("mark_sending", "mark_sent")}
        self._marks: Batch[Item, tuple[str, float]] = Batch("marking", self._send_marks, DEPTH)
        self._sents: Batch[Item, None] = Batch("marking sent", self._send_sents)
        self.settlement = Settlement(
            redis, settings, epoch=self._epoch, clock=clock, calls=calls, records=self._records, publish=publish
        )
        self._begun: dict[asyncio.Task[None], list[Job]] = {}
        """The tasks that have had their turn, and what each has: it may have been written."""
        self._last_look = asyncio.Lock()
        """Held by who waits until the lease is certain."""
        self.intake = Intake(
            reader, settings.read_ahead, take=self.take, settle_vanished=self.settlement.settle_vanished,
            may_read=lambda: lease.is_valid,
        )  # fmt: skip

    async def run(self) -> None:
        """Take entries and handle each in a task of its own, until cancelled. Raises what a task could not cope
        with."""
        await self.intake.run()

    async def drain(self, limit_s: float) -> None:
        """Let what has been begun come to its end, for at most so long; what waits for its turn stays pending."""
        self._schedule.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.sleep(0)  # a turn that was just granted begins in this
                while self._begun:
                    log.info("draining", in_flight=len(self._in_flight()), limit_s=limit_s)
                    await asyncio.wait([*self._begun])
        if left := self._in_flight():
            log.warning(
                "stopping with actions in flight: the next worker finds out what became of them",
                in_flight=len(left), action_ids=left[:TOLD], limit_s=limit_s,
            )  # fmt: skip
        await self.stop()

    def _in_flight(self) -> list[str]:
        """The ActionIDs of what has been begun and is not settled."""
        jobs = [job for begun in self._begun.values() for job in begun]
        return [job.request.action_id for job in jobs if self.intake.is_held(job.request)]

    async def stop(self) -> None:
        """Give up every entry that is held. What is not settled stays pending, for whoever comes next."""
        await self.intake.stop()
        for batch in (self._marks, self._sents, self.settlement):
            batch.close()

    def take(self, requests: Iterable[Request]) -> None:
        """Handle these entries: those that only read in groups, any other in a task of its own."""
        together: list[Job] = []
        for request in requests:
            if self.intake.is_held(request):
                continue
            is_ours = is_own(request)
            try:
                job = self._admit(request, is_ours)
            except Refused as refusal:
                self.intake.hold([request], self._conclude([(request, refused(refusal), None)]))
                continue
            if is_ours:
                self.intake.hold([request], self._do_myself(job))
            elif self._schedule.may_share(job.session, job.cost):
                together.append(job)
            else:
                self.intake.hold([request], self.handle([job]))
        for first in range(0, len(together), MAX_GROUP):
            jobs = together[first : first + MAX_GROUP]
            self.intake.hold([job.request for job in jobs], self.handle(jobs))

    def take_over(self, job: Job) -> None:
        """Handle an entry that a lost worker had begun."""
        self.intake.hold([job.request], self._take_over(job))

    # -- the whole life of an entry

    async def handle(self, jobs: list[Job], *, late: bool = False) -> None:
        """From the stream to the final state: of one entry, or of several that only read and so may share a turn.

        `late`: their deadlines have passed while they waited for it.
        """
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            if late:
                jobs = await self._pursue(jobs, None, task)
            while jobs:
                jobs = await self._attempt(jobs, task)
        finally:
            self._begun.pop(task, None)

    def _admit(self, request: Request, is_ours: bool) -> Job:
        """Refuse what is malformed, forbidden, or more than AMI can carry."""
        if request.refusal is not None:
            raise request.refusal
        if is_ours:
            self._own.check(request)
        elif request.target:
            raise Refused(ErrorCode.MALFORMED, "Bus-Target is for the worker's own actions, whose names begin with Bus")
        job = make_job(request, self._settings.server)
        if not is_ours:
            self._policy.check(request)
        return job

    async def _do_myself(self, job: Job) -> None:
        """The life of an action that the worker executes itself: at once, and without Asterisk."""
        job.again = job.reads_only = True
        [(verdict, at)] = await self.mark_sending([job], probe=False)
        if verdict == "sending":
            job.sending_at, job.epoch = at, self._epoch
            try:
                told: Outcome | Next = await self._own.do(job.request)
            except Refused as refusal:
                told = refused(refusal)
        else:
            told = self._unsent(job, verdict)
        if isinstance(told, Outcome):
            await self._conclude([(job.request, told, job)])
        else:
            self.intake.let_go(job.request)

    async def _attempt(self, jobs: list[Job], task: "asyncio.Task[None]") -> list[Job]:
        """Wait for their turn, record the intent, send, settle. Returns those that are to be tried again."""
        first = jobs[0]
        number = self._schedule.number() if first.number is None else first.number
        for job in jobs:
            job.number = number  # each keeps its place, whichever of them is tried again
        deadlines = [job.request.deadline for job in jobs]
        turn = await self._schedule.turn(first.session, first.cost, *deadlines, number=number)
        if turn is None and len(jobs) > 1:
            now = self._clock.now()
            late = [job for job in jobs if job.request.deadline < now]
            # What is not late lines up again at once, before whoever came later has the turn.
            if late and len(late) < len(jobs):
                self.intake.hold([job.request for job in late], self.handle(late, late=True))
                return [job for job in jobs if job.request.deadline >= now]
        return await self._pursue(jobs, turn, task)

    async def _pursue(self, jobs: list[Job], turn: Turn | None, task: "asyncio.Task[None]") -> list[Job]:
        """What follows on the turn, or on none. Returns those that are to be tried again."""
        again: list[Job] = []
        async with asyncio.TaskGroup() as settling:
            try:
                if turn is not None:
                    self._begun[task] = jobs
                async with contextlib.aclosing(self._outcomes(jobs, turn)) as outcomes:
                    async for told in outcomes:
                        fates = [(job.request, outcome, job) for job, outcome in told if isinstance(outcome, Outcome)]
                        if fates:
                            settling.create_task(self._conclude(fates))
                        if len(fates) < len(told):
                            again += [job for job, outcome in told if outcome is Next.AGAIN]
                            for job in [job for job, outcome in told if outcome is Next.OVER]:
                                self.intake.let_go(job.request)
            finally:
                if turn is not None:
                    self._schedule.release(turn)
        self._begun.pop(task, None)
        return again

    async def _outcomes(self, jobs: list[Job], turn: Turn | None) -> AsyncGenerator[list[Told]]:
        """What becomes of the jobs, as it becomes known: first of those that may not be sent, then of the others."""
        may_go, unsent = await self._leave(jobs, turn)
        if unsent:
            yield unsent
        if not may_go or turn is None:
            return
        if not may_go[0].reads_only:
            may_go[0].begun_before = self._diary.written_at(may_go[0])
            await self._diary.note(may_go)
        await self._until_certain()
        now = self._clock.now()
        # What may have been written is not said to have expired: it goes on to be found out.
        if late := [job for job in may_go if job.request.deadline < now and job.begun_before is None]:
            yield [(job, _late(job)) for job in late]
            may_go = [job for job in may_go if job not in late]
        if may_go and may_go[0].reads_only:
            async for told in self._send(may_go):
                yield told
        elif may_go:
            yield [(may_go[0], await self._send_change(may_go[0], turn))]

    async def _leave(self, jobs: list[Job], turn: Turn | None) -> tuple[list[Job], list[Told]]:
        """Which jobs may be sent, and what becomes of the others."""
        may_go: list[Job] = []
        again: list[Job] = []
        unsent: list[Told] = []
        for job, (verdict, at) in zip(jobs, await self.mark_sending(jobs, probe=turn is None), strict=True):
            if verdict == "sending":
                job.sending_at, job.epoch = at, self._epoch
            if lost := self._lost_work.suspicion(job, verdict, has_turn=turn is not None):
                unsent.append((job, await self._fate_of_lost(job, lost, turn)))
            elif verdict == "sending" and turn is not None:
                may_go.append(job)
            elif verdict == "begun":
                await self._lost_work.learn_begun(job)
                if self._lost_work.begin_again(job):
                    again.append(job)
                else:
                    if turn is not None:
                        self._schedule.release(turn)
                    unsent.append((job, await self._lost_work.fate_of_begun(job)))
            else:
                unsent.append((job, self._unsent(job, verdict)))
        if again:  # in the same turn, that nobody who came later overtakes them
            more, others = await self._leave(again, turn)
            may_go = [job for job in jobs if job in may_go or job in more]
            unsent += others
        return may_go, unsent

    async def mark_sending(self, jobs: list[Job], *, probe: bool) -> list[tuple[str, float]]:
        """Ask Redis whether these entries may be sent, and record the intent: the verdicts, and Redis' time.

        `probe`: the deadline seems to have passed, so only look whether Redis agrees.
        """
        return await self._marks.add_all([self._records.mark(job, probe=probe) for job in jobs])

    async def _until_certain(self) -> None:
        """The last look before the write: is the lease ours beyond doubt? A worker that was paused since the mark must
        not write."""
        async with self._last_look:  # who comes when the lease is renewed must not overtake those who wait for that
            while not self._lease.is_valid:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until it is renewed, or known to be lost: then this task is cancelled

    async def _send(self, jobs: list[Job]) -> AsyncGenerator[list[Told]]:
        """Write read-only actions and await what comes of them."""
        waiting = {job.request.action_id: job for job in jobs}

        def on_response(action_id: str, response: Response) -> None:
            self._mark_sent(waiting[action_id], response)

        def on_items(action_id: str, items: list[Event]) -> None:
            self.settlement.items_of(waiting[action_id]).add([item.headers for item in items])

        for job in jobs:
            if job.items is not None:
                job.items.begin_anew()
        try:
            answers = self._sessions.request_all(jobs[0].session, jobs, on_response, on_items)
        except ConnectionLost:
            yield [(job, Next.AGAIN) for job in jobs]
            return
        async for told in answers:
            yield [(job := waiting[action_id], _of_read(job, what)) for action_id, what in told]

    async def _send_change(self, job: Job, turn: Turn) -> "Outcome | Next":
        """Write an action that changes something, which is done once, and await what comes of it."""
        if job.session not in self._sessions.present:
            return Next.AGAIN
        # No step between these looks and the write may wait: another entry with this ActionID may have come as far.
        try:
            if not self._diary.begin_write(job):
                return await self._fate_of_lost(job, RECORD_LOST, turn)
            if not self._lease.is_valid:
                raise LeaseLost("this worker was stopped right before a write")
        except JournalFull:  # this file system wants room even for one byte of what is there
            await asyncio.sleep(DISK_RETRY_S)
            return Next.AGAIN

        def on_response(_action_id: str, response: Response) -> None:
            self._mark_sent(job, response)

        def on_queued(response: Response | None) -> None:
            if response is not None:
                self._mark_sent(job, response)
            self._schedule.release(turn)  # the session is free: the next call need not wait until this one is answered

        try:
            if job.channel_id is not None:
                return await self._originates.place(job, on_queued)
            async for told in self._sessions.request_all(job.session, [job], on_response):
                for _, what in told:
                    return outcome_of(what) if isinstance(what, Exchange) else unknown(what)
        except ConnectionLost:
            return Next.AGAIN  # nothing was written
        raise AssertionError("an action had no answer and no error")

    def _mark_sent(self, job: Job, response: Response) -> None:
        """Asterisk answered, more is to come: said while the rest is waited for."""
        job.noted = self._sents.add(self._records.sent(job, response, self._clock.now()))
        without_noise(job.noted)  # `settle` raises its error; the task may be cancelled before that

    def _unsent(self, job: Job, verdict: str) -> "Outcome | Next":
        """What to do where `mark_sending` did not let it be sent."""
        match verdict:
            case "duplicate":
                self.settlement.duplicates += 1
                return Next.OVER
            case "settled":
                return Next.OVER
            case "early":
                return Next.AGAIN
            case "sending" | "expired":
                return _late(job)
            case "cancelled":
                return Outcome(
                    State.CANCELLED, code=ErrorCode.CANCELLED, message="it was taken back before it was sent"
                )
            case "reused":
                return reused(job.request)
            case _:
                why = f"ChannelId {job.channel_id} belongs to a call that is alive"
                return refused(Refused(ErrorCode.DUPLICATE_CHANNEL_ID, why))

    # -- endings

    async def _fate_of_lost(self, job: Job, otherwise: Outcome, turn: Turn | None) -> Outcome:
        if turn is not None:
            self._schedule.release(turn)  # it is not sent in it
        return await self._lost_work.fate_of_lost(job, otherwise)

    async def _take_over(self, job: Job) -> None:
        outcome = await self._lost_work.fate_of_begun(job)
        if isinstance(outcome, Outcome):
            await self._conclude([(job.request, outcome, job)])
        else:
            await self.handle([job])

    async def _conclude(self, fates: Sequence[Fate]) -> None:
        await self.settlement.settle(fates)
        for request, _, _ in fates:
            self.intake.let_go(request)

    async def _send_marks(self, items: list[Item]) -> list[tuple[str, float]]:
        script, settings = self._scripts["mark_sending"], self._settings
        answer = await script(self._redis, self._epoch, self._publish, settings.name, items)
        if not answer:
            raise LeaseLost(f"epoch {self._epoch} is over")
        at = float(answer[0])
        return [(verdict.decode(), at) for verdict in answer[1:]]

    async def _send_sents(self, items: list[Item]) -> list[None]:
        await self._scripts["mark_sent"](self._redis, self._epoch, self._publish, items)
        return [None] * len(items)


def _of_read(job: Job, what: "Exchange | Unanswered") -> "Outcome | Next":
    """What came of a read-only action. It is asked again if its answer was lost, with its session or on it, unless that
    has taken too long."""
    if isinstance(what, Exchange):
        outcome = outcome_of(what)
        # A later action was answered and this one was not, or not to the end. (An empty table of IAXnetstats is that.)
        is_lost = what.overtaken and what.spec.shape != "raw-text"
    else:
        outcome, is_lost = unknown(what), not isinstance(what, AnswerTimeout)
    job.repeats += is_lost
    if not is_lost or job.repeats > REPEATS:
        return outcome
    # Said with the mark: to be asked about it would cost its place before those that have not been begun.
    job.again = job.written = True
    return Next.AGAIN


def _late(job: Job) -> Outcome:
    """Its deadline has passed: expired if it never was written, otherwise nobody knows."""
    if job.written:
        lost = ("connection", ErrorCode.CONNECTION_LOST) if job.repeats else ("worker", ErrorCode.WORKER_LOST)
        return Outcome(State.UNKNOWN, code=lost[1], message=f"the {lost[0]} was lost, and then its deadline passed")
    return Outcome(State.EXPIRED, code=ErrorCode.EXPIRED, message="its deadline passed before it could be sent")
