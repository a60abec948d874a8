"""Faults on demand: what an Asterisk, or the network before it, does on a bad day."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from workers.simulated.received import Received


class Fault(Enum):
    """What may befall one action."""

    LOSE = "executed, its response never sent"
    LATE = "executed, its response (and all behind it on the session) sent late"
    HELD = "executed, its response (and all behind it on the session) sent when the script resumes"
    ERROR = "not executed, answered with an Error"
    MISORDER = "executed, its response sent after the next action's"
    DROP_UNREAD = "the connection dropped, the action neither executed nor recorded"
    DROP_BEFORE = "executed, the connection dropped before the response"
    DROP_AMID = "executed, the connection dropped in the middle of the response"
    DROP_AFTER = "executed and answered, then the connection dropped"


@dataclass
class Rule:
    """Which actions a fault befalls: from the `nth` that matches on, `times` of them (0: all)."""

    fault: Fault
    action: str = "*"
    """An action's name, an ActionID, or `*`."""
    nth: int = 1
    times: int = 1
    seconds: float = 0.0
    message: str = ""
    seen: int = 0

    def befalls(self, action: Received) -> bool:
        if self.action not in ("*", action.action_id) and self.action.lower() != action.name.lower():
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.times == 0 or self.seen < self.nth + self.times)


@dataclass
class Faults:
    """The script. The switches may be set at any time; the methods add a rule for actions to come.

    No rule befalls Login and Challenge: `refuse_login`, `silent` and `shutting_down` are for them.
    """

    refuse_login: bool = False
    """Every login fails as with a wrong secret."""
    silent: bool = False
    """Accept connections and say nothing: no banner, no answer."""
    shutting_down: bool = False
    """Answer every action with Error, `Asterisk is shutting down`."""
    cut_bytes: int = 0
    """Not 0: write everything in pieces of 1 to this many bytes."""
    rules: list[Rule] = field(default_factory=list)
    reading: bool = field(default=True, init=False)
    writing: bool = field(default=True, init=False)
    held: list[Callable[[], None]] = field(default_factory=list, init=False, repr=False)
    """Says each response that waits for `resume`."""
    on_resume: list[Callable[[], None]] = field(default_factory=list, init=False, repr=False)

    def lose_response(self, action: str = "*", *, nth: int = 1, times: int = 1) -> Rule:
        return self._add(Rule(Fault.LOSE, action, nth, times))

    def delay_response(self, action: str = "*", *, seconds: float, nth: int = 1, times: int = 1) -> Rule:
        return self._add(Rule(Fault.LATE, action, nth, times, seconds=seconds))

    def hold_response(self, action: str = "*", *, nth: int = 1, times: int = 1) -> Rule:
        return self._add(Rule(Fault.HELD, action, nth, times))

    def answer_error(
        self, action: str = "*", *, message: str = "Asterisk is shutting down", nth: int = 1, times: int = 1
    ) -> Rule:
        return self._add(Rule(Fault.ERROR, action, nth, times, message=message))

    def misorder(self, action: str = "*", *, nth: int = 1, times: int = 1) -> Rule:
        return self._add(Rule(Fault.MISORDER, action, nth, times))

    def drop_connection(self, action: str = "*", *, when: str = "before", nth: int = 1, times: int = 1) -> Rule:
        """`when` says at which moment: `unread`, `before` (the response), `amid` or `after` it."""
        return self._add(Rule(Fault[f"DROP_{when.upper()}"], action, nth, times))

    def stop_reading(self) -> None:
        """Leave what clients send in the kernel's buffers; events still go out."""
        self.reading = False

    def freeze(self) -> None:
        """Neither read nor write, as a stopped process: connections stay up and nothing is said."""
        self.reading = self.writing = False

    def resume(self) -> None:
        """Undo `stop_reading`, `freeze` and `hold_response`: what had waited is handled now."""
        self.reading = self.writing = True
        held, self.held = self.held, []
        for deliver in held:
            deliver()
        for resume in list(self.on_resume):
            resume()

    def clear(self) -> None:
        """Back to a good day."""
        self.refuse_login = self.silent = self.shutting_down = False
        self.cut_bytes = 0
        self.rules.clear()
        self.resume()

    def pick(self, action: Received) -> Rule | None:
        """The first rule that befalls this action; every rule counts it."""
        return next(iter([rule for rule in self.rules if rule.befalls(action)]), None)

    def _add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule
