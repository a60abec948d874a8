"""Background traffic: the events of whole calls that nobody asked for, at a chosen rate."""

import asyncio
from collections.abc import Iterator
from itertools import cycle

from workers.simulated.calls import render
from workers.simulated.switch import Switch
from workers.simulated.templates import Template, sections

TICK_S = 0.02
MAX_BURST_EVENTS = 5000
"""Published at once; a loop that was late does not make up for more than this."""
STEPS = ("start", "callerid1", "callerid2", "dial", "answer", "hangup")
EXTENSIONS = ("701", "702", "703", "704")


class Traffic:
    """Emits `rate` events a second until it is stopped."""

    def __init__(self, switch: Switch, rate: float) -> None:
        self.switch = switch
        self.rate = rate
        """Events a second; may be changed at any time."""
        self.emitted = 0
        self._events = self._calls()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def emit(self, count: int) -> None:
        """Publish so many events at once."""
        events = self._events
        self.switch.publish([next(events) for _ in range(count)])
        self.emitted += count

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        last, due = loop.time(), 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            due, last = due + self.rate * (now - last), now
            if due >= 1:
                self.emit(min(int(due), MAX_BURST_EVENTS))
                due -= int(due)

    def _calls(self) -> Iterator[tuple[str, bytes]]:
        known = sections()
        templates = [each for step in STEPS for each in known[step] if each.event != "OriginateResponse"]
        for exten in cycle(EXTENSIONS):
            yield from self._call(exten, templates)

    def _call(self, exten: str, templates: list[Template]) -> Iterator[tuple[str, bytes]]:
        number, first, second = (
            self.switch.next_number(),
            self.switch.next_uniqueid(),
            self.switch.next_uniqueid(),
        )
        device = f"Local/{exten}@background"
        channel = f"{device}-{number:08x}"
        values: dict[str, object] = {
            "number": "5550000", "name": "background", "account": "", "device": device,
            "dialled": f"{exten}@background", "number_hex": f"{number + 1:08x}", "cause": 16,
            "cause_text": "Normal Clearing",
        }  # fmt: skip
        for leg, uniqueid in ((1, first), (2, second)):
            values |= {
                f"channel{leg}": f"{channel};{leg}", f"id{leg}": uniqueid, f"context{leg}": "background",
                f"exten{leg}": exten, f"priority{leg}": 1, f"state{leg}": 6, f"state_text{leg}": "Up",
            }  # fmt: skip
        yield from render(templates, values)
