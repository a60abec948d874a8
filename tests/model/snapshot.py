"""Everything that can be seen on Redis at one moment, as the scripts' side and the model both tell it."""

from dataclasses import dataclass, field, fields
from typing import Final

TOLERANCE_MS: Final = 30_000
"""So much of a life may have gone by when a test looks: far more than an example takes, far less than lives differ."""


class Disagreement(AssertionError):
    """The scripts did something else than the contract says."""


@dataclass(slots=True)
class Snapshot:
    """The keys of one server, and what was published since the last look."""

    records: dict[str, dict[str, bytes]] = field(default_factory=dict)
    ends: dict[str, int | None] = field(default_factory=dict)
    """Milliseconds that a record, the lease or the heartbeat has left, None: for ever."""
    entries: dict[str, list[str]] = field(default_factory=dict)
    pending: dict[str, dict[str, str]] = field(default_factory=dict)
    """By lane: entry -> consumer."""
    legs: dict[str, str] = field(default_factory=dict)
    results: list[dict[str, bytes]] = field(default_factory=list)
    dead: list[list[bytes]] = field(default_factory=list)
    events: list[tuple[bytes, bytes]] = field(default_factory=list)
    epoch: int = 0
    lease: str = ""
    heartbeat: dict[str, bytes] = field(default_factory=dict)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    """Channel (without the server's root) and message."""
    strangers: list[str] = field(default_factory=list)
    """Keys and channels beyond the server's hash slot, or of no name of the contract's."""

    def state(self, action_id: str) -> str:
        """What the record says, empty where there is none."""
        return self.records.get(action_id, {}).get("state", b"").decode()

    def same_keys(self, other: "Snapshot") -> bool:
        """Whether nothing was written between the two."""
        mine, others = (
            [getattr(side, part.name) for part in fields(Snapshot) if part.name not in ("ends", "published")]
            for side in (self, other)
        )
        return mine == others and self.ends.keys() == other.ends.keys()


def compare(model: Snapshot, real: Snapshot) -> None:
    """Raise `Disagreement` where they differ."""
    for part in fields(Snapshot):
        expected, seen = getattr(model, part.name), getattr(real, part.name)
        same = _same_ends(expected, seen) if part.name == "ends" else expected == seen
        if not same:
            raise Disagreement(f"{part.name}:\n  the model has {expected}\n  the server   {seen}")


def _same_ends(model: dict[str, int | None], real: dict[str, int | None]) -> bool:
    if model.keys() != real.keys():
        return False
    for name, end in model.items():
        seen = real[name]
        if end is None or seen is None:
            if end is not seen:
                return False
        elif not end - TOLERANCE_MS < seen <= end:
            return False
    return True
