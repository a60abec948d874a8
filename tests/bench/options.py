"""What is measured, and how long."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one run."""

    events: int = 50_000
    """Of each round."""
    pings: int = 20_000
    """Of each round."""
    rounds: int = 5
    loop: str = "asyncio"
    """Of all processes that are measured: asyncio's own, as both sides are installed and documented, or uvloop."""
    redis: str = "redis"
    """The kind of server: redis or valkey."""
    profile: Path | None = None
    """Directory for profiles of the worker; figures taken with them are worth nothing."""

    def profile_of(self, name: str) -> str | None:
        """The file for a profile."""
        return None if self.profile is None else str(self.profile / f"{name}.prof")
