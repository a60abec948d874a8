"""What reached the simulation: the checker's side of "written at most once"."""

from typing import NamedTuple

from workers.simulated.received import Received


class Written(NamedTuple):
    """One action that was read and executed (or refused for want of rights), in the order of arrival."""

    action_id: str | None
    action: str
    text: str
    session: int
    at: float
    """Seconds of the event loop's monotonic clock."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """As they came; worked out when asked for, so that a long run keeps one text per action."""
        return Received(self.text).headers


class LoginAttempt(NamedTuple):
    """One Login action; the secret is not kept."""

    username: str
    accepted: bool
    session: int
    at: float
