"""One simulated call, from Originate to the Hangup of its last leg, told in the events of a real one."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.simulated.order import UNKNOWN, Order
from workers.simulated.templates import Template, sections

if TYPE_CHECKING:
    from workers.simulated.switch import Switch

STATES = {0: "Down", 4: "Ring", 5: "Ringing", 6: "Up", 7: "Busy"}
CAUSES = {
    0: "Unknown",
    1: "Unallocated (unassigned) number",
    16: "Normal Clearing",
    17: "User busy",
    18: "No user responding",
    19: "User alerting, no answer",
    21: "Call Rejected",
    34: "Circuit/channel congestion",
}
WAIT_AFTER_ANSWER_S = 0.5
"""Asterisk's Answer lets half a second pass before the dialplan goes on."""


@dataclass
class Leg:
    """One channel of a call."""

    call: "Call"
    number: int
    channel: str
    uniqueid: str
    context: str
    exten: str
    state: int
    application: str
    data: str
    priority: int = 1
    variables: dict[str, str] = field(default_factory=dict)

    def values(self) -> dict[str, object]:
        """What the templates call this leg's things."""
        return {
            f"channel{self.number}": self.channel,
            f"id{self.number}": self.uniqueid,
            f"context{self.number}": self.context,
            f"exten{self.number}": self.exten,
            f"priority{self.number}": self.priority,
            f"state{self.number}": self.state,
            f"state_text{self.number}": STATES[self.state],
        }


def render(templates: Iterable[Template], values: Mapping[str, object]) -> list[tuple[str, bytes]]:
    """Events to publish, a microsecond apart, as Asterisk stamps them."""
    filled = dict(values)
    now_us = time.time_ns() // 1000
    events: list[tuple[str, bytes]] = []
    for template in templates:
        filled["now"] = f"{now_us // 1_000_000}.{now_us % 1_000_000:06d}"
        text = template.text % filled
        events.append((template.privilege, text.encode("utf-8", "surrogateescape")))
        now_us += 1
    return events


class Call:
    """The course of one call; what it does next is its one timer."""

    def __init__(self, switch: "Switch", order: Order, number: int, uniqueids: tuple[str, str]) -> None:
        self.switch = switch
        self.order = order
        self.number = number
        self.placed_at = time.time()
        self.is_answered = False
        self.is_over = False
        self._timers: list[asyncio.TimerHandle] = []
        exten, context = order.dialled
        local = order.technology.lower() == "local"
        name = f"{'/'.join(order.channel.split('/')[:2])}-{number:08x}"
        first = Leg(
            self,
            1,
            f"{name};1" if local else name,
            uniqueids[0],
            context,
            exten,
            0,
            "AppDial2",
            "(Outgoing Line)",
        )
        self.legs = [first]
        if local:
            self.legs.append(Leg(self, 2, f"{name};2", uniqueids[1], context, exten, 4, "", ""))
        for leg in self.legs:
            leg.variables.update(order.variables)

    def begin(self) -> None:
        """Dial: the events up to DialBegin, then what the extension's name says."""
        self._tell("start")
        for variable in reversed(self.order.variables):
            self._tell_variable(1, *variable)
        if self.order.number != UNKNOWN:
            self._tell("callerid1")
        for variable in self.order.variables:
            self._tell_variable(2, *variable)
        if self.order.number != UNKNOWN:
            self._tell("callerid2")
        self._tell("dial")
        self._follow_dialplan(self.legs[0].exten.lower())

    def hang_up(self, leg: Leg, cause: int) -> None:
        """End it at the wish of a Hangup action."""
        if self.is_answered:
            self._end("hangup" if leg.number == 1 else "hangup2", cause)
        else:
            self._end("cancel", cause, reason=0)

    def redirect(self, leg: Leg, context: str, exten: str, priority: int) -> None:
        """Send a leg elsewhere; an unanswered Originate is over with that."""
        leg.context, leg.exten, leg.priority = context, exten, priority
        leg.application, leg.data = "Answer", ""
        if leg.number == 1:
            self._tell("redirect")
        if not self.is_answered:
            self.is_answered = True
            self._cancel_timers()
            self._settle(reason=0)
            self._after(self.order.timeout_s / self.switch.speed, lambda: self._end("hangup", 16))

    def set_variable(self, leg: Leg, name: str, value: str) -> None:
        leg.variables[name] = value
        self._tell(f"setvar{leg.number}", variable=name, value=value)

    def forget(self) -> None:
        """Be gone without a word, as when Asterisk dies."""
        self.is_over = True
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _follow_dialplan(self, exten: str) -> None:
        ring_s, timeout_s = self.switch.ring_s, self.order.timeout_s / self.switch.speed
        if exten in ("busy", "congestion"):
            self._after(ring_s, lambda: self._refuse(exten))
            return
        if exten in ("noanswer", "ring") or ring_s >= timeout_s:
            self._after(0, self._ring)
        if exten == "noanswer" or ring_s >= timeout_s:
            self._after(timeout_s, lambda: self._end("noanswer", 19, reason=3))
        else:
            self._after(ring_s, self._answer)

    def _ring(self) -> None:
        self.legs[0].state = 5
        self._enter(2, "Wait", "60", priority=2)
        self._tell("ringing")

    def _refuse(self, exten: str) -> None:
        self._enter(2, exten.capitalize(), "1", priority=1)
        reason, cause = (5, 17) if exten == "busy" else (8, 34)
        # Of a Local channel's legs only the second knows the cause (the template has it).
        self._end(exten, 0 if len(self.legs) == 2 else cause, reason=reason)

    def _answer(self) -> None:
        self.is_answered = True
        for leg in self.legs:
            leg.state = 6
        self._enter(2, "Answer", "", priority=1)
        self._tell("answer", outcome=self._outcome(4))
        self._settle(reason=4, told=True)
        talk_s = self._talk_s()
        if self.order.application:
            self._enter(1, self.order.application, self.order.data, priority=1)
        else:
            self.legs[0].context, self.legs[0].exten = self.order.context, self.order.exten
            self._enter(1, "Answer", "", priority=1)
            self._tell("extension")
        if talk_s > WAIT_AFTER_ANSWER_S / self.switch.speed:
            self._after(WAIT_AFTER_ANSWER_S / self.switch.speed, self._wait)
        cause = 0 if self.order.application else 16
        self._after(talk_s, lambda: self._end("hangup", cause))

    def _wait(self) -> None:
        self._enter(2, "Wait", "60", priority=2)
        self._tell("wait")

    def _talk_s(self) -> float:
        """`Wait` with a number lasts so long (as time goes here); anything else lasts `talk_s`."""
        if self.order.application.lower() == "wait":
            try:
                return max(0.0, float(self.order.data)) / self.switch.speed
            except ValueError:
                pass
        return self.switch.talk_s

    def _end(self, section: str, cause: int, reason: int | None = None) -> None:
        values: dict[str, object] = {"cause": cause, "cause_text": CAUSES.get(cause, "Unknown")}
        if reason is not None:
            values["outcome"] = self._outcome(reason)
        self._tell(section, **values)
        self.forget()
        self.switch.remove(self)
        if reason is not None:
            self._settle(reason, told=True)

    def _settle(self, reason: int, told: bool = False) -> None:
        """Say what became of the Originate: to its waiting session, or (unless the step told) to all."""
        if self.order.answered is not None:
            self.order.answered(reason == 4)
        elif not told:
            self.switch.tell_outcome(self._outcome(reason))

    def _outcome(self, reason: int) -> str:
        channel = self.legs[0].channel if reason == 4 else self.order.channel
        return self.order.response(channel, self.legs[0].uniqueid, reason)

    def _enter(self, number: int, application: str, data: str, *, priority: int) -> None:
        if number <= len(self.legs):
            leg = self.legs[number - 1]
            leg.application, leg.data, leg.priority = application, data, priority

    def _tell_variable(self, number: int, name: str, value: str) -> None:
        self._tell(f"variable{number}", variable=name, value=value)

    def _tell(self, section: str, **values: object) -> None:
        templates = sections()[section]
        local = len(self.legs) == 2
        if not local or self.order.answered is not None:
            templates = tuple([each for each in templates if self._applies(each, local)])
        for leg in self.legs:
            values.update(leg.values())
        order = self.order
        values.update(
            number=order.number,
            name=order.name,
            account=order.account,
            device="/".join(order.channel.split("/")[:2]),
            dialled=order.channel.partition("/")[2],
            number_hex=f"{self.number + 1:08x}",
        )
        self.switch.publish(render(templates, values))

    def _applies(self, template: Template, local: bool) -> bool:
        if template.event == "OriginateResponse":
            return self.order.answered is None
        return local or not template.local_only

    def _after(self, delay_s: float, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(delay_s, lambda: None if self.is_over else then()))
