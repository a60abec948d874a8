"""Redis' clock as this host sees it: deadlines and times are Redis', whatever this host believes the hour to be."""

import time


class ServerClock:
    """An estimate of Redis' time, carried on by the monotonic clock between the times that Redis tells."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def learn(self, server_time: float, asked_at: float) -> None:
        """Take over Redis' time (unix seconds), asked for at `asked_at` (monotonic)."""
        # Half of the round trip is the best guess of when Redis looked at its clock.
        self._offset_s = server_time - (asked_at + time.monotonic()) / 2

    def now(self) -> float:
        """Unix seconds by Redis' clock."""
        return time.monotonic() + self._offset_s
