"""Waiting longer after each failure, and never in step with others."""

import random


class Backoff:
    """Delays that grow from `first_s` to `most_s`, each with full jitter in its upper half."""

    def __init__(self, first_s: float = 0.1, most_s: float = 10.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._failures = 0

    def next_s(self) -> float:
        """The next delay."""
        delay_s: float = min(self._most_s, self._first_s * 2**self._failures)
        self._failures = min(self._failures + 1, 30)
        return delay_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: begin anew."""
        self._failures = 0
