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
        everywhere = Rate(overall)
        self._limits = {
            name: [rate for rate in (everywhere, Rate(per_second)) if rate.per_second > 0]
            for name, per_second in classes.items()
        }
        """By class, the rates that limit it."""

    def limits(self, cost: str) -> bool:
        """Whether any rate counts the actions of this class."""
        return bool(self._limits[cost])

    def wait_s(self, cost: str, now: float) -> float:
        """How long until an action of this class may go (0: now)."""
        limits = self._limits[cost]
        return max([rate.wait_s(now) for rate in limits]) if limits else 0.0

    def take(self, cost: str, now: float) -> None:
        """An action of this class has gone."""
        for rate in self._limits[cost]:
            rate.take(now)
