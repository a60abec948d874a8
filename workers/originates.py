"""Calls placed, and what became of them: Asterisk's answer to an Originate says only that it was queued."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from redis.asyncio import Redis

from broker.ami import Headers, Response
from broker.codec import State
from broker.errors import ErrorCode
from workers.batch import until_done
from workers.calls import Calls
from workers.channels import Channels
from workers.clock import ServerClock
from workers.config import Settings
from workers.connection import AnswerTimeout, ConnectionLost, Unanswered
from workers.event_search import EventSearch
from workers.job import Job
from workers.notes import Note
from workers.outcome import Outcome, answered_outcome, ended_outcome, originate_outcome, outcome_of
from workers.record_fields import record_fields
from workers.sessions import Sessions

LOOK_S: Final = 2.0
"""How often it is looked whether a call's channel is alive while nobody knows what became of its Originate. The first
look comes so late that Asterisk has made the channel, if it ever will."""

LEAST_WAIT_S: Final = 5.0
"""An Originate that a lost worker sent is waited for so long at least, however long ago that was."""


class Originates:
    """Places calls, and finds out what became of those whose worker or connection was lost."""

    def __init__(
        self, redis: "Redis", settings: Settings, *, clock: ServerClock, sessions: Sessions, channels: Channels,
        calls: Calls, on_note: Callable[[Note], None],
    ) -> None:  # fmt: skip
        self._redis = redis
        self._keys = settings.keys
        self._search = EventSearch(redis, settings.keys, settings.record_s, clock.now)
        self._clock = clock
        self._sessions = sessions
        self._channels = channels
        self._calls = calls
        self._on_note = on_note

    async def place(self, job: Job, on_queued: Callable[[Response | None], None]) -> Outcome:
        """Write an Originate and await what becomes of it. `on_queued` hears Asterisk's first answer, None where the
        session was lost before it came: either way the session is free for the next.

        Raises `ConnectionLost` if nothing was written.
        """
        assert job.channel_id is not None
        outcome = self._calls.expect(job.request.action_id, job.channel_id, job.sending_at, job.request)
        placed = True
        try:
            try:
                exchange = await self._sessions.request(job.session, job)
            except (ConnectionLost, AnswerTimeout) as error:
                placed = error.written
                if not placed:
                    raise
                on_queued(None)
                return await self._await(job, outcome, unknown(error))
            answered, response = outcome_of(exchange), exchange.answer.response
            if answered.state is not State.DONE or response is None:
                placed = answered.state is not State.FAILED
                return answered
            on_queued(response)
            return await self._wait_for_event(job, outcome, response.headers)
        finally:
            self._calls.give_up(job.request.action_id, placed=placed)

    async def find_out(self, job: Job, otherwise: Outcome) -> Outcome:
        """The truth about an Originate that a lost worker sent, or may have sent; else `otherwise`."""
        assert job.channel_id is not None
        outcome = self._calls.expect(job.request.action_id, job.channel_id, job.sending_at, job.request)
        try:
            return await self._await(job, outcome, otherwise)
        finally:
            self._calls.give_up(job.request.action_id, placed=True)

    async def _wait_for_event(self, job: Job, outcome: "asyncio.Future[Outcome]", response: Headers) -> Outcome:
        await asyncio.wait([outcome], timeout=job.outcome_timeout_s)
        try:
            if outcome.done() or self._calls.has_outcome(job.request.action_id):
                told = await outcome  # it may be here, and wait for Redis to take its event
            else:
                late = AnswerTimeout(f"no outcome of the call within {job.outcome_timeout_s:g} s")
                told = await self._looked_up(job) or unknown(late)
        except ConnectionLost as error:
            told = await self._looked_up(job) or self._ruled_out(job, unknown(error))
        return replace(told, response=response)

    async def _await(self, job: Job, outcome: "asyncio.Future[Outcome]", otherwise: Outcome) -> Outcome:
        """Look wherever the truth may be, for as long as the OriginateResponse may still come."""
        known = await self._looked_up(job)
        if known is not None:
            return known
        sent_at = job.sending_at or self._clock.now()
        # No longer than from now on: Redis' clock, by which it was sent, may have been set back since.
        left_s = min(sent_at - self._clock.now(), 0) + job.outcome_timeout_s
        patience_s = max(LEAST_WAIT_S, left_s)
        may_be_alive = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await asyncio.wait([outcome], timeout=LOOK_S)
                while not outcome.done() and (may_be_alive := await self._may_be_alive(job)):
                    await asyncio.wait([outcome], timeout=LOOK_S)
        try:
            if outcome.done() or self._calls.has_outcome(job.request.action_id):
                return await outcome
        except ConnectionLost:
            may_be_alive = False
        return await self._looked_up(job) or (otherwise if may_be_alive else self._ruled_out(job, otherwise))

    def _ruled_out(self, job: Job, outcome: Outcome) -> Outcome:
        """Asterisk has no such channel: nothing more will be heard of this call."""
        job.is_ruled_out = True
        self._calls.rule_out(job.request.action_id)
        return outcome

    async def _may_be_alive(self, job: Job) -> bool:
        await self._sessions.ready.wait()
        try:
            alive = await self._channels.alive()
        except (ConnectionLost, AnswerTimeout):
            return True
        if alive is None or not self._sessions.is_ready:  # that was before the events were lost
            return True
        for note in self._calls.see(alive):
            self._on_note(note)
        return job.channel_id in alive

    async def _looked_up(self, job: Job) -> Outcome | None:
        """What the record and the events stream tell."""
        names = ["call", "answered_at", "cause"]
        call, answered_at, cause = await record_fields(self._redis, self._keys, job.request.action_id, names)
        if call == b"up" or answered_at:
            return answered_outcome()
        if call == b"ended" and cause:  # without a cause nobody saw its end
            return ended_outcome(cause.decode(errors="replace"))
        since = job.begun_before or job.sending_at or job.request.queued_at
        event = await until_done("events", lambda: self._search.originate_response(job.request.action_id, since))
        return None if event is None else originate_outcome(event)


def unknown(error: Unanswered) -> Outcome:
    """What can be said of an action whose answer will not come."""
    if isinstance(error, AnswerTimeout):
        return Outcome(State.UNKNOWN, code=ErrorCode.TIMEOUT, message=str(error))
    message = f"the connection was lost before the answer: {error}"
    return Outcome(State.UNKNOWN, code=ErrorCode.CONNECTION_LOST, message=message)
