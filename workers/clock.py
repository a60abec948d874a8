"""Redis' clock as this host sees it: deadlines and times are Redis', whatever this host believes the hour to be."""

import time
from typing import Final

import structlog
from redis.asyncio import Redis

SLOW_S: Final = 0.25
"""A round trip to Redis that took longer tells its time too badly."""

STEP_S: Final = 1.0
"""A difference from the last estimate that no drift of two clocks within a heartbeat's period explains."""

log = structlog.get_logger()


class ServerClock:
    """An estimate of Redis' time, carried on by the monotonic clock between the times that Redis tells."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._learned = False
        self.stepped_s = 0.0
        """The last step of Redis' clock against the monotonic one; negative: it was set back. 0: none was seen."""

    async def ask(self, redis: "Redis") -> None:
        """Have Redis tell its time, before anything goes by it. Raises redis-py's errors."""
        asked_at = time.monotonic()
        seconds, microseconds = await redis.time()
        self.learn(seconds + microseconds / 1e6, asked_at)

    def learn(self, server_time: float, asked_at: float) -> None:
        """Take over Redis' time (unix seconds), asked for at `asked_at` (monotonic). A step of its clock is said."""
        now = time.monotonic()
        half_s = (now - asked_at) / 2
        # Half of the round trip is the best guess of when Redis looked at its clock.
        offset_s = server_time - (asked_at + half_s)
        change_s = offset_s - self._offset_s
        if self._learned:
            is_step = abs(change_s) > STEP_S + half_s
            if not is_step and now - asked_at > SLOW_S:
                return  # the answer was held up somewhere: the old estimate is better than half of an unknown
            if is_step:
                self._tell_of_step(change_s)
        self._offset_s = offset_s
        self._learned = True

    def now(self) -> float:
        """Unix seconds by Redis' clock."""
        return time.monotonic() + self._offset_s

    def _tell_of_step(self, step_s: float) -> None:
        self.stepped_s = step_s
        log.warning(
            "redis' clock has been stepped: deadlines and the ages of records go by it", step_s=round(step_s, 3),
            hint="have it slewed instead; another server in its place, or a pause of this host, looks the same",
        )  # fmt: skip
