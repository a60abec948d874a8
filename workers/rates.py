"""Rates by GCRA (the generic cell rate algorithm): one number per limit, no bucket to refill."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """At most `per_second` on average, with bursts of up to one second's worth (at least 1). 0 is unlimited."""

    per_second: float
    _due: float = 0.0

    def wait_s(self, now: float) -> float:
        """How long until one more may go (0: now)."""
        if self.per_second <= 0:
            return 0.0
        burst_s = max(1.0, self.per_second) / self.per_second
        return max(0.0, self._due + 1 / self.per_second - burst_s - now)

    def take(self, now: float) -> None:
        """One more has gone."""
        if self.per_second > 0:
            self._due = max(self._due, now) + 1 / self.per_second


class Rates:
    """The limits of one server: one for all actions together, one for each cost class."""

    def __init__(self, overall: float, classes: Mapping[str, float]) -> None:
        self._overall = Rate(overall)
        self._classes = {name: Rate(per_second) for name, per_second in classes.items()}

    def wait_s(self, cost: str, now: float) -> float:
        """How long until an action of this class may go (0: now)."""
        return max(self._overall.wait_s(now), self._classes[cost].wait_s(now))

    def take(self, cost: str, now: float) -> None:
        """An action of this class has gone."""
        self._overall.take(now)
        self._classes[cost].take(now)
