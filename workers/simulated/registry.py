"""The table of actions that the simulation knows, filled by the modules that handle them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.simulated.received import Received

if TYPE_CHECKING:
    from workers.simulated.session import Session

Handler = Callable[["Session", Received], str | None]
"""Returns the whole answer, or None when it calls `Session.answer` later: the session is busy until then."""


@dataclass(frozen=True)
class Known:
    """One action: its handler, the classes of which its user needs one, and ListCommands' line."""

    name: str
    handler: Handler
    classes: tuple[str, ...]
    synopsis: str

    @property
    def privilege(self) -> str:
        return ",".join([*self.classes, "all"]) if self.classes else "<none>"


ACTIONS: dict[str, Known] = {}
"""Lower-case name to action."""


def action(name: str, *classes: str, synopsis: str) -> Callable[[Handler], Handler]:
    """Register a handler; the classes are those of Asterisk 22, any of which suffices."""

    def register(handler: Handler) -> Handler:
        ACTIONS[name.lower()] = Known(name, handler, classes, synopsis)
        return handler

    return register
