"""What an earlier worker, or this one before Redis went back in time, may have done of an entry, and what is to be said
of that."""

from dataclasses import replace
from typing import Final

from redis.asyncio import Redis

from broker.codec import State
from broker.errors import ErrorCode
from broker.keys import Keys
from workers.calls import Calls
from workers.diary import Diary
from workers.job import MARK, Job
from workers.originates import Originates
from workers.outcome import Next, Outcome
from workers.record_fields import record_fields

WORKER_LOST: Final = Outcome(
    State.UNKNOWN,
    code=ErrorCode.WORKER_LOST,
    message="the worker that sent it was lost before it could note the answer",
)

RECORD_LOST: Final = Outcome(
    State.UNKNOWN,
    code=ErrorCode.RECORD_LOST,
    message="Redis knows nothing of it any more, and the journal on this host says that it may have been sent",
)

RECORD_DOUBTFUL: Final = Outcome(
    State.UNKNOWN,
    code=ErrorCode.RECORD_LOST,
    message="Redis may have gone back in time while another host's worker served, which may have sent it",
)

MAY_HAVE_BEEN_SENT: Final = ("sending", "expired", "duplicate-channel-id")
"""Verdicts of a Redis that has no record of it. If it went back in time, that says little: the ChannelId, too, may be
its own."""


class LostWork:
    """Finds out the fate of what may have been sent before.

    `doubtful_before`: what changes something and was queued before this (unix seconds by Redis' clock) is not sent:
    another host's worker may have done so, and Redis may have forgotten it.
    """

    def __init__(
        self, redis: "Redis", keys: Keys, *, calls: Calls, originates: Originates, diary: Diary, doubtful_before: float
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._calls = calls
        self._originates = originates
        self._diary = diary
        self._doubtful_before = doubtful_before

    def suspicion(self, job: Job, verdict: str, *, has_turn: bool) -> Outcome | None:
        """Why it may have been sent although Redis does not say so; None: go by the verdict of `mark_sending`."""
        if job.reads_only or job.again or verdict not in MAY_HAVE_BEEN_SENT:
            return None
        if self._is_doubtful(job):
            job.begun_before = job.request.queued_at
            return RECORD_DOUBTFUL
        if verdict != "sending" or not has_turn:  # else the journal is asked right before the write
            job.begun_before = self._diary.written_at(job)
        return None if job.begun_before is None else RECORD_LOST

    async def fate_of_lost(self, job: Job, otherwise: Outcome) -> Outcome:
        """What Redis has forgotten and may have been sent: of a call the truth is looked for."""
        # Where an earlier entry of this ActionID still waits for the outcome, that will revise this one.
        if job.channel_id is None or self._calls.is_followed(job.request.action_id):
            return otherwise
        found = await self._originates.find_out(job, otherwise)
        if found is otherwise and not self._calls.is_followed(job.request.action_id):
            return replace(found, has_no_call=True)
        return found

    async def learn_begun(self, job: Job) -> None:
        """The entry is new to the group, and yet its record says that it was begun: the group was destroyed."""
        job.was_marked(*await record_fields(self._redis, self._keys, job.request.action_id, MARK))

    def begin_again(self, job: Job) -> bool:
        """Whether what was begun is to be done again: what only reads, and what the journal proves never to have been
        written. The job is made ready for it."""
        # What is in doubt another host's worker may have written, before one of this host began it in vain.
        if not job.reads_only and (self._is_doubtful(job) or not self._diary.proves_unwritten(job)):
            return False
        job.again, job.written = True, job.reads_only
        job.sending_at = job.epoch = None
        return True

    async def fate_of_begun(self, job: Job) -> Outcome | Next:
        """What may be is done again; of a call the truth is looked for; of all else nobody knows."""
        if self.begin_again(job):
            return Next.AGAIN
        otherwise = RECORD_DOUBTFUL if self._diary.proves_unwritten(job) else WORKER_LOST
        if job.channel_id is not None:
            return await self._originates.find_out(job, otherwise)
        return otherwise

    def _is_doubtful(self, job: Job) -> bool:
        return job.request.queued_at < self._doubtful_before
