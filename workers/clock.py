"""Redis' clock as this host sees it: deadlines and times are Redis', whatever this host believes the hour to be."""

import time
from typing import Final

SLOW_S: Final = 0.25
"""A round trip to Redis that took longer tells its time too badly."""


class ServerClock:
    """An estimate of Redis' time, carried on by the monotonic clock between the times that Redis tells."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._learned = False

    def learn(self, server_time: float, asked_at: float) -> None:
        """Take over Redis' time (unix seconds), asked for at `asked_at` (monotonic)."""
        now = time.monotonic()
        if self._learned and now - asked_at > SLOW_S:
            return  # the answer was held up somewhere: the old estimate is better than half of an unknown
        # Half of the round trip is the best guess of when Redis looked at its clock.
        self._offset_s = server_time - (asked_at + now) / 2
        self._learned = True

    def now(self) -> float:
        """Unix seconds by Redis' clock."""
        return time.monotonic() + self._offset_s
