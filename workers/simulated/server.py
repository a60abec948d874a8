"""The simulated Asterisk: its listener, its sessions, and what they share."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from workers.simulated import channels, console, login, originate, queues, system
from workers.simulated.calls import Call
from workers.simulated.faults import Faults
from workers.simulated.ledger import LoginAttempt, Written
from workers.simulated.received import block
from workers.simulated.session import Session
from workers.simulated.switch import Switch
from workers.simulated.traffic import Traffic
from workers.simulated.users import User, as_users

HANDLERS = (channels, console, login, originate, queues, system)
"""Named so that the modules that fill the table of actions are not taken for unused."""


class SimulatedAsterisk:
    """A test double that speaks AMI as Asterisk 22 does, within limits.

    Use it as `async with SimulatedAsterisk() as asterisk`, and connect to `asterisk.port`.

    `users` maps names to secrets (every right) or `User`s; without it there are `amibus`/`amibus` and the
    read-only `amibus-events`/`amibus-events`. A call rings `ring_s` seconds and, unless `Wait` says how long,
    lasts `talk_s`; `speed` divides the times that actions name. `event_rate` is background events a second.
    For `boot_s` after the start FullyBooted is withheld. A client that leaves its events unread is cut off
    after `write_timeout_s`. `seed` makes what is random repeatable.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        users: Mapping[str, User | str] | None = None,
        version: str = "22.10.1",
        *,
        ring_s: float = 0.02,
        talk_s: float = 0.05,
        speed: float = 1.0,
        event_rate: float = 0.0,
        boot_s: float = 0.0,
        login_delay_s: float = 0.05,
        write_timeout_s: float = 5.0,
        faults: Faults | None = None,
        seed: int | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.users = as_users(users)
        self.version = version
        self.system_name = "simulated"
        self.boot_s = boot_s
        self.login_delay_s = login_delay_s
        self.write_timeout_s = write_timeout_s
        self.faults = Faults() if faults is None else faults
        self.random = random.Random(seed)
        self.sessions: set[Session] = set()
        self.written: list[Written] = []
        self.logins: list[LoginAttempt] = []
        self.stalls = 0
        """How often a client left more unread than a quick one would."""
        self.variables: dict[str, str] = {}
        self.database: dict[tuple[str, str], str] = {}
        self.switch = Switch(self.publish, ring_s=ring_s, talk_s=talk_s, speed=speed)
        self.traffic = Traffic(self.switch, event_rate)
        self.started_at = 0.0
        self.is_booted = False
        self._listener: asyncio.Server | None = None
        self._boot: asyncio.TimerHandle | None = None
        self._numbers = 0

    @property
    def address(self) -> str:
        """host:port, as settings take it."""
        return f"{self.host}:{self.port}"

    @property
    def calls(self) -> list[Call]:
        """The calls that are up."""
        return list(self.switch.live)

    def writes(self, action_id: str) -> list[Written]:
        """Every time that an action with this ActionID reached Asterisk."""
        return [each for each in self.written if each.action_id == action_id]

    def write_counts(self) -> Counter[str]:
        """How often each ActionID reached Asterisk."""
        return Counter(each.action_id for each in self.written if each.action_id is not None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen and boot."""
        self.faults.on_resume.append(self._resume)
        await self._start()
        self.traffic.start()

    async def stop(self) -> None:
        """End every session and call."""
        await self.traffic.stop()
        await self._stop()
        self.faults.on_resume.remove(self._resume)

    async def restart(self, down_s: float = 0.0) -> None:
        """Die with all calls, stay away for `down_s` seconds, come back on the same port and boot anew.

        The ledger, the fault script and the database stay; global variables go, as in Asterisk.
        """
        await self._stop()
        await asyncio.sleep(down_s)
        await self._start()

    async def drop_connections(self, which: str = "all") -> int:
        """Cut sessions at once: `all`, those that are sent `events`, or the others (`actions`); how many."""
        wanted = {"all": (True, False), "events": (True,), "actions": (False,)}[which]
        sessions = [each for each in self.sessions if bool(each.mask) in wanted]
        for session in sessions:
            session.drop()
        await asyncio.gather(*[session.closed for session in sessions])
        return len(sessions)

    async def emit_events(self, count: int, batch: int = 500) -> None:
        """Publish `count` events as fast as the clients read them."""
        while count > 0:
            if not any(session.is_stalled for session in self.sessions):
                self.traffic.emit(min(batch, count))
                count -= batch
            await asyncio.sleep(0)

    def publish(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Queue events (privilege class, text) for every session that reads their class."""
        joined = b"".join([text for _, text in events])
        for session in self.sessions:
            session.notify(events, joined)

    def tell(self, event: str, privilege: str, *pairs: tuple[str, object]) -> None:
        """Publish one event."""
        head = ("Event", event), ("Privilege", f"{privilege},all"), ("Timestamp", f"{time.time():.6f}")
        self.publish([(privilege, block(*head, *pairs).encode("utf-8", "surrogateescape"))])

    def set_global(self, name: str, value: str) -> None:
        """Set a global variable, with its event."""
        self.variables[name] = value
        none = ("Channel", "none"), ("Uniqueid", "none")
        self.tell("VarSet", "dialplan", *none, ("Variable", name), ("Value", value))

    def fully_booted(self) -> str:
        """The event as a login gets it: without a time stamp."""
        return block(("Event", "FullyBooted"), ("Privilege", "system,all"), *self._uptime())

    def _uptime(self) -> tuple[tuple[str, object], ...]:
        seconds = int(time.time() - self.started_at)
        return ("Uptime", seconds), ("LastReload", seconds), ("Status", "Fully Booted")

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._session, self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.started_at = time.time()
        self.variables.clear()
        self.is_booted = self.boot_s <= 0
        if not self.is_booted:
            self._boot = loop.call_later(self.boot_s, self._finish_boot)

    async def _stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._boot is not None:
            self._boot.cancel()
        self.switch.forget_all()
        await self.drop_connections()
        if self._listener is not None:
            await self._listener.wait_closed()

    def _session(self) -> Session:
        self._numbers += 1
        return Session(self, self._numbers)

    def _finish_boot(self) -> None:
        self.is_booted = True
        self.tell("FullyBooted", "system", *self._uptime())

    def _resume(self) -> None:
        for session in list(self.sessions):
            session.resume()
