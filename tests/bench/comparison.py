"""Figures of two sides, taken in turn."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Comparison:
    """What one side did and what the other did, round by round."""

    name: str
    unit: str
    ours: str
    """What our side does, for whoever reads the figures."""
    theirs: str
    judged: bool = True
    """Whether its ratio must reach the floor."""
    less_is_better: bool = False
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """Our figure and theirs, of the rounds so far."""

    def add(self, *, ours: float, theirs: float) -> None:
        """The figures of one more round."""
        self.rounds.append((ours, theirs))

    @property
    def median_ours(self) -> float:
        """The middle one of our figures."""
        return median(ours for ours, _ in self.rounds)

    @property
    def median_theirs(self) -> float:
        """The middle one of their figures."""
        return median(theirs for _, theirs in self.rounds)

    @property
    def ratio(self) -> float:
        """How good ours is as a part of theirs, by the medians: 1 is equal, 2 twice as good."""
        return self._ratio(self.median_ours, self.median_theirs)

    @property
    def ratios(self) -> list[float]:
        """The same of each round."""
        return [self._ratio(ours, theirs) for ours, theirs in self.rounds]

    def passes(self, floor: float) -> bool:
        """Whether it is good enough."""
        return not self.judged or self.ratio >= floor

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.median_ours,
            "theirs": self.median_theirs,
            "ratio": self.ratio,
            "judged": self.judged,
            "rounds": [
                {"ours": ours, "theirs": theirs, "ratio": ratio}
                for (ours, theirs), ratio in zip(self.rounds, self.ratios, strict=True)
            ],
            "what": {"ours": self.ours, "theirs": self.theirs},
        }

    def _ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.less_is_better else ours / theirs
