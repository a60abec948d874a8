"""What the demo shows: each action's life as its record has it, its events, and what became of it in the end."""

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

from broker.codec import BusEvent, Result
from broker.record import Record
from workers.cli.event_view import facts
from workers.cli.output import Cell, Output
from workers.cli.result_view import duration, style_of

if TYPE_CHECKING:
    from broker.call import Call
    from broker.client import Server

RESULT_S: Final = 60.0
EXTENSIONS: Final = ("100", "busy", "noanswer", "200", "congestion")
"""Of the simulated Asterisk: what a call comes to goes by the name of its extension."""

RING_MS: Final = 3000
_SHOWN: Final = frozenset(
    ("Newchannel", "Newstate", "DialBegin", "DialEnd", "OriginateResponse", "BridgeEnter", "LocalBridge", "Hangup",
     "BusCallEnded", "BusGap")
)  # fmt: skip
"""A call has dozens of events; these tell its story, the others are counted."""

_STEPS: Final = (("sending", "sending_at"), ("sent", "sent_at"))
_COLOURS: Final = ("cyan", "magenta", "yellow", "blue", "bright_red", "bright_green")


@dataclass
class Life:
    """One action, and what was told of it so far."""

    action_id: str
    action: str
    style: str
    told: set[str] = field(default_factory=set)
    events: int = 0
    result: Result | None = None
    record: Record | None = None


class Story:
    """Tells the demo on the output, line by line as it happens."""

    def __init__(self, output: Output, pbx: "Server", *, simulated: bool, channel: str) -> None:
        self._output = output
        self._pbx = pbx
        self._simulated = simulated
        self._channel = channel
        self._began = time.monotonic()
        self._run = secrets.token_hex(2)
        self._colours = cycle(_COLOURS)
        self._lives: list[Life] = []

    async def tell(self, calls: int) -> None:
        """Show everything, in the order in which it is best understood."""
        self._output.heading("An action and Asterisk's answer")
        await self._live("ping", "Ping", {})
        self._output.heading("A list: its items come as one result")
        await self._live("channels", "CoreShowChannels", {})
        self._output.heading("An action that the worker's policy refuses: it never reaches Asterisk")
        forbidden = {"Channel": self._channel, "Application": "System", "Data": "reboot"}
        await self._live("forbidden", "Originate", forbidden)
        if calls:
            kind = "simulated call" if self._simulated else "call"
            self._output.heading(f"{calls} {kind}{'' if calls == 1 else 's'}: dialling, events, and the end of each")
            await asyncio.gather(*[self._place(number, channel) for number, channel in self._channels(calls)])
        self._sum_up()

    def _channels(self, calls: int) -> list[tuple[int, str]]:
        extensions = [f"Local/{exten}@default" for exten in EXTENSIONS] if self._simulated else [self._channel]
        return list(enumerate(islice(cycle(extensions), calls), 1))

    async def _place(self, number: int, channel: str) -> None:
        headers = {
            "Channel": channel,
            "Application": "Wait",
            "Data": "2",
            "CallerID": "demo <100>",
            "Timeout": str(RING_MS),
        }
        await self._live(f"call{number}", "Originate", headers)

    async def _live(self, label: str, action: str, headers: dict[str, str]) -> None:
        life = Life(f"{label}-{self._run}", action, next(self._colours))
        self._lives.append(life)
        shown = " ".join(f"{name}={value}" for name, value in headers.items() if name in ("Channel", "Application"))
        self._say(life, ("queued  ", "blue"), (action, "bold"), shown)
        call = await self._pbx.submit(action, headers=headers, action_id=life.action_id, timeout=RESULT_S)
        async with call, asyncio.TaskGroup() as group:
            group.create_task(self._await_result(life, call))
            group.create_task(self._follow(life, call))
        life.record = await call.action_record()
        if life.record is not None and life.record.call == "ended":
            self._say(life, ("ended   ", "bold"), f"the call is over after {life.events} events")

    async def _await_result(self, life: Life, call: "Call") -> None:
        life.result = result = await call.result(RESULT_S, raise_on_failure=False)
        await self._tell_steps(life, call)
        items = [headers for headers in result.events if "EventList" not in headers]
        answer = result.error_message or (result.response.get("Message", "") if result.response else "")
        if life.action == "Originate" and result.is_done:
            answer = "answered"  # Asterisk's own words are about its queue
        took = (result.settled_at or 0.0) - (result.queued_at or 0.0)
        self._say(
            life,
            (f"{result.state:<8}", style_of(result.state)),
            (f"after {duration(took)}", "dim"),
            (f"{result.error_code}:", "red") if result.error_code else "",
            answer,
            f"{len(items)} items" if life.action != "Originate" and result.events else "",
        )

    async def _follow(self, life: Life, call: "Call") -> None:
        async for event in call.events():
            await self._tell_steps(life, call)
            life.events += 1
            if event.name in _SHOWN:
                self._tell_event(life, event)

    async def _tell_steps(self, life: Life, call: "Call") -> None:
        """What the record has noted since the last look."""
        record = await call.action_record()
        if record is None:
            return
        for step, noted in _STEPS:
            if record.get(noted) and step not in life.told:
                life.told.add(step)
                since = float(record.get(noted)) - float(record.get("queued_at", record.get(noted)))
                self._say(life, (f"{step:<8}", "blue"), (f"after {duration(since)}", "dim"))

    def _tell_event(self, life: Life, event: BusEvent) -> None:
        told = [f"{name}={value}" for name, value in facts(event.name, event.headers) if name != "Uniqueid"]
        self._say(life, (f"  {event.name}", "bold"), *[(each, "dim") for each in told[:4]])

    def _say(self, life: Life, *cells: Cell) -> None:
        elapsed = f"{time.monotonic() - self._began:6.2f}s"
        self._output.line((elapsed, "dim"), (f"{life.action_id:<14}", life.style), *cells)

    def _sum_up(self) -> None:
        self._output.heading("What became of them")
        rows: list[list[Cell]] = []
        for life in self._lives:
            state = str(life.result.state) if life.result else "?"
            call = life.record.get("call") if life.record and life.action == "Originate" else ""
            cause = life.record.get("cause") if life.record else ""
            why = (life.result.error_code or "") if life.result else ""
            rows.append(
                [
                    (life.action_id, life.style),
                    life.action,
                    (state, style_of(state)),
                    call,
                    cause,
                    str(life.events),
                    why,
                ]
            )
        self._output.table(("ActionID", "action", "state", "call", "cause", "events", "error"), rows)
