"""One AMI session: strictly serial, its events held back while an action runs, as in Asterisk."""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from workers.simulated.faults import Fault, Rule
from workers.simulated.ledger import Written
from workers.simulated.received import Received, block, error
from workers.simulated.registry import ACTIONS
from workers.simulated.users import ALL_CLASSES, User

if TYPE_CHECKING:
    from workers.simulated.server import SimulatedAsterisk

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
"""What 22 says. Clients parse it, so it cannot say "simulated": CoreSettings and the console do."""
MAX_UNSENT_BYTES = 1 << 20
"""Beyond this the reader is slow, and `write_timeout_s` starts to run."""
MAX_TAIL_BYTES = 1 << 18
"""More than an action of 128 full lines: what goes beyond is refused anyway, and need not be kept."""
BEFORE_LOGIN = frozenset({"login", "logoff", "challenge"})

Events = Sequence[tuple[str, bytes]]
"""Queued events in order: privilege class, text."""


class Session(asyncio.Protocol):
    """Server side of one connection."""

    def __init__(self, asterisk: "SimulatedAsterisk", number: int) -> None:
        self.asterisk = asterisk
        self.number = number
        self.username = ""
        self.user: User | None = None
        self.mask: frozenset[str] = frozenset()
        self.challenge = ""
        self.closing = False
        self.closed = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._tail = b""
        self._inbox: deque[str] = deque()
        self._out: list[bytes] = []
        self._pieces: deque[bytes] = deque()
        self._held: list[bytes] = []
        self._overtaken: list[str] = []
        self._busy = self._running = self._flush_due = self._is_last = False
        self._rule: Rule | None = None
        self._stall: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self.asterisk.sessions.add(self)
        if not self.asterisk.faults.silent:
            self._out.append(BANNER)
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.resume_writing()
        self.asterisk.sessions.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.asterisk.faults.silent:
            return
        data = self._tail + data
        # Asterisk ends lines at CRLF and at a bare LF alike; a CR that came last may be half of a CRLF.
        kept = b"\r" if data.endswith(b"\r") else b""
        text = data.removesuffix(b"\r").replace(b"\r\n", b"\n")
        *blocks, tail = text.split(b"\n\n")
        for each in blocks:
            self._accept(each)
        while tail.startswith(b"\n"):
            self._inbox.append("")
            tail = tail[1:]
        self._tail = tail[:MAX_TAIL_BYTES] + kept
        self._run()

    def pause_writing(self) -> None:
        self.asterisk.stalls += 1
        self._stall = self._loop.call_later(self.asterisk.write_timeout_s, self.drop)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # What the rest of the simulation calls.

    @property
    def is_stalled(self) -> bool:
        """More is unsent than a quick reader would leave."""
        return self._stall is not None

    def answer(self, text: str, *, last: bool = False) -> None:
        """The whole answer to the action that is running; then the session goes on, or ends if it is the last."""
        rule, self._rule = self._rule, None
        self._is_last = last
        if self.closing:
            return
        if rule is None or rule.fault is Fault.ERROR:
            self._deliver(text)
        elif rule.fault is Fault.LATE:
            self._loop.call_later(rule.seconds, self._deliver, text)
        elif rule.fault is Fault.HELD:
            self.asterisk.faults.held.append(partial(self._deliver, text))
        elif rule.fault is Fault.LOSE:
            self._deliver("")
        elif rule.fault is Fault.MISORDER:
            self._overtaken.append(text)
            self._go_on()
        else:
            self._answer_and_drop(rule.fault, text)

    def notify(self, events: Events, joined: bytes) -> None:
        """Pass on queued events of the classes that this session reads."""
        if not self.mask or self.closing:
            return
        if self.mask is not ALL_CLASSES:
            joined = b"".join([text for classes, text in events if self._reads(classes)])
        if self._busy:
            self._held.append(joined)
            return
        self._out.append(joined)
        if not self._flush_due and not self._running:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def finish(self) -> None:
        """Close once what is said has been sent."""
        self._flush()
        self.transport.write(b"".join(list(self._pieces)[1:]))
        self._pieces.clear()
        self.closing = True
        self.transport.close()

    def drop(self) -> None:
        """Cut the connection at once."""
        self.closing = True
        self.transport.abort()

    def resume(self) -> None:
        """Go on after the fault script's `resume`."""
        if not self.closing:
            self.transport.resume_reading()
            self._run()

    # The serial life of a session.

    def _accept(self, data: bytes) -> None:
        """Queue one block; each line end before its first header is an empty action of its own."""
        if not data:
            self._inbox.extend(("", ""))
            return
        stripped = data.lstrip(b"\n")
        self._inbox.extend([""] * (len(data) - len(stripped)))
        self._inbox.append(stripped.decode("utf-8", "surrogateescape"))

    def _run(self) -> None:
        if not self.asterisk.faults.reading:
            self.transport.pause_reading()
            return
        self._running = True
        while self._inbox and not self._busy and not self.closing:
            self._take(self._inbox.popleft())
        self._running = False
        self._flush()

    def _take(self, text: str) -> None:
        action = Received(text)
        faults = self.asterisk.faults
        if faults.rules and self.user is not None:
            self._rule = faults.pick(action)
            if self._rule is not None and self._rule.fault is Fault.DROP_UNREAD:
                self.drop()
                return
        self._busy = True
        answer = self._execute(action)
        if answer is not None:
            self.answer(answer)

    def _execute(self, action: Received) -> str | None:
        """The checks of Asterisk's process_message, in its order, then the handler."""
        refusal = action.fault()
        if refusal is not None:
            return _unread(action, refusal)
        if self.asterisk.faults.shutting_down:
            return error(action, "Asterisk is shutting down")
        name = action.name.lower()
        if self.user is None and name not in BEFORE_LOGIN:
            return error(action, "Permission denied")
        if name not in BEFORE_LOGIN:
            self._record(action)
        if self._rule is not None and self._rule.fault is Fault.ERROR:
            return error(action, self._rule.message)
        known = ACTIONS.get(name)
        if known is None:
            advice = "Use Action: ListCommands to show available commands."
            return error(action, f"Invalid/unknown command: {action.name}. {advice}")
        if known.classes and self.user is not None and self.user.write.isdisjoint(known.classes):
            return error(action, "Permission denied")
        return known.handler(self, action)

    def _record(self, action: Received) -> None:
        written = Written(action.action_id, action.name, action.text, self.number, self._loop.time())
        self.asterisk.written.append(written)

    def _answer_and_drop(self, fault: Fault, text: str) -> None:
        if fault is Fault.DROP_AFTER:
            self._out.append(_encode(text))
            self.finish()
        elif fault is Fault.DROP_AMID:
            self._out.append(_encode(text[: len(text) // 2]))
            self.finish()
        else:
            self._flush()
            self.drop()

    def _deliver(self, text: str) -> None:
        if self.closing:
            return
        self._out.append(_encode(text))
        if self._overtaken:
            self._out.extend([_encode(each) for each in self._overtaken])
            self._overtaken.clear()
        if self._is_last:
            self.finish()
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._busy = False
        if self._held:
            self._out.extend(self._held)
            self._held.clear()
        if not self._running:
            self._run()

    def _reads(self, classes: str) -> bool:
        return classes in self.mask or self.mask.issuperset(classes.split(","))

    def _flush(self) -> None:
        self._flush_due = False
        if not self._out or self.closing or not self.asterisk.faults.writing:
            return
        data = b"".join(self._out)
        self._out.clear()
        if self.asterisk.faults.cut_bytes or self._pieces:
            self._cut(data)
        else:
            self.transport.write(data)

    def _cut(self, data: bytes) -> None:
        """Queue the data in odd pieces, one a turn of the event loop, so that each is a packet."""
        started = bool(self._pieces)
        most = max(1, self.asterisk.faults.cut_bytes)
        at = 0
        while at < len(data):
            size = self.asterisk.random.randint(1, most)
            self._pieces.append(data[at : at + size])
            at += size
        if not started:
            self._write_piece()

    def _write_piece(self) -> None:
        if not self._pieces or self.transport.is_closing():
            self._pieces.clear()
            return
        self.transport.write(self._pieces[0])
        self._loop.call_soon(self._next_piece)

    def _next_piece(self) -> None:
        if self._pieces:
            self._pieces.popleft()
        self._write_piece()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unread(action: Received, refusal: str) -> str:
    """An action past the limit of headers shows its ActionID only if that came before the limit."""
    if not action.text:
        return block(("Response", "Error"), ("Message", refusal))
    return error(action, refusal)
