"""The four AMI sessions, kept alive: one for events, and for actions (with `Events: off`) urgent, write and read.

Asterisk serves a session serially, so that whatever is slow on one would hold up all that comes after it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from broker.ami import (
    Event,
    Exchange,
    LocalProtocolError,
    LoginRefused,
    RemoteProtocolError,
)
from broker.errors import SettingsError
from workers.backoff import Backoff
from workers.config import Settings
from workers.connection import Answers, Connection, ConnectionLost, OnItems, OnResponse, Question

EVENTS: Final = "events"
ACTION_ROLES: Final = ("urgent", "write", "read")

REFUSED_RETRY_S: Final = 60.0
"""A login that was refused is tried again this often at most: a storm of wrong logins looks like an attack."""

STABLE_S: Final = 10.0
"""A session that lived so long was no failure: the next connection is tried at once."""

RETRY_MOST_S: Final = 2.0
"""The longest wait between two tries: Asterisk is found again soon after it has come back. While it is away only the
events session tries."""

GATHER_S: Final = 0.03
"""Sessions that are lost together, since Asterisk has gone, make one line in the log."""

BOOT_PATIENCE_S: Final = 10.0
"""After so long without FullyBooted the log says why actions wait: who may not read `system` never hears of it."""

log = structlog.get_logger()


class _NotNow(Exception):
    """Asterisk takes no login at the moment: it is shutting down."""


@dataclass(slots=True)
class _Gate:
    """What is known of one manager user."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    not_before: float = 0.0
    """When the next login may be tried (monotonic)."""
    accepted: bool = False
    """Asterisk has let it in before: its secret was right once."""
    complained: bool = False
    """That it was refused is in the log."""


class Sessions:
    """Connects, logs in, waits for FullyBooted, and does it again whenever a session is lost.

    `on_event` gets every event of the events session, from within the read. `on_ready` is called when all sessions are
    there and Asterisk is fully booted, and again when that is so after the events session was lost; `on_away` whenever
    a session is lost, with its role and why; `on_back` when another than that for events is there again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_event: Callable[[Event], None],
        on_ready: Callable[[], None],
        on_away: Callable[[str, str], None],
        on_back: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._on_ready = on_ready
        self._on_away = on_away
        self._on_back = on_back
        self._connections: dict[str, Connection] = {}
        self._booted = asyncio.Event()
        self._gates: dict[str, _Gate] = {}
        """By user name."""
        self._boot_timer: asyncio.TimerHandle | None = None
        self._lost: dict[str, str] = {}
        """The sessions lost of which the log does not say so yet, and why."""
        self.banner = ""
        self.why = ""
        """What keeps a session away, or actions waiting, as was seen last; empty while all are there."""
        self.ready = asyncio.Event()
        """Set while all sessions have been there and Asterisk is fully booted, until that for events is lost."""

    @property
    def is_ready(self) -> bool:
        """Whether actions can be sent: see `ready`."""
        return self.ready.is_set()

    async def run(self) -> None:
        """Keep the sessions until cancelled. Raises `SettingsError` if Asterisk refuses the very first login."""
        try:
            async with asyncio.TaskGroup() as group:
                for role in (EVENTS, *ACTION_ROLES):
                    group.create_task(self._keep(role), name=f"session {role}")
        finally:
            self._watch_boot(False)
            for connection in self._connections.values():
                connection.abort("the worker stops")

    async def request(self, role: str, asked: Question) -> Exchange:
        """See `Connection.request`; also `ConnectionLost` (not written) while that session is away."""
        return await self._session(role).request(asked)

    def request_all(
        self,
        role: str,
        asked: Sequence[Question],
        on_response: OnResponse | None = None,
        on_items: OnItems | None = None,
    ) -> Answers:
        """See `Connection.request_all`; also `ConnectionLost` (not written) while that session is away."""
        return self._session(role).request_all(asked, on_response, on_items)

    def _session(self, role: str) -> Connection:
        connection = self._connections.get(role)
        if connection is None:
            raise ConnectionLost(f"the {role} session is away", written=False)
        return connection

    @property
    def present(self) -> set[str]:
        """The roles of the sessions that are there, and not lost in this turn of the loop."""
        return {role for role, connection in self._connections.items() if not connection.lost.done()}

    @property
    def in_flight(self) -> int:
        """Actions written and not yet answered."""
        return sum(connection.in_flight for connection in self._connections.values())

    async def _keep(self, role: str) -> None:
        backoff = Backoff(0.1, RETRY_MOST_S)
        while True:
            if role != EVENTS:
                # Not before FullyBooted: modules may not have registered their actions yet.
                await self._booted.wait()
            connection = await self._connect(role, backoff)
            since = time.monotonic()
            self._arrive(role, connection)
            why = await connection.lost
            self._leave(role, why)
            if time.monotonic() - since > STABLE_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _connect(self, role: str, backoff: Backoff) -> Connection:
        failures = 0
        while True:
            try:
                return await self._log_in(role)
            except LoginRefused as error:
                self._refused(role, error)
            except (OSError, RemoteProtocolError, ConnectionLost, _NotNow) as error:
                what = str(error) or "timeout"
                self.why = f"no session with {self._settings.ami}: {what}"
                if not failures:
                    log.warning("asterisk is away", session=role, address=self._settings.ami, error=what)
                failures += 1
                await asyncio.sleep(backoff.next_s())

    async def _log_in(self, role: str) -> Connection:
        """One login of a user at a time, and none for a while after a refusal: a wrong secret is sent once."""
        username = self._user(role)[0]
        gate = self._gates.setdefault(username, _Gate())
        async with gate.lock:
            await asyncio.sleep(gate.not_before - time.monotonic())
            try:
                connection = await self._open(role)
            except LoginRefused as error:
                if not is_refusal(error):
                    raise _NotNow(error.message) from None
                gate.not_before = time.monotonic() + REFUSED_RETRY_S
                raise
            except LocalProtocolError as error:
                raise SettingsError(unsendable(username, error)) from None
            gate.accepted, gate.complained = True, False
            return connection

    async def _open(self, role: str) -> Connection:
        events = role == EVENTS
        return await Connection.open(
            role, self._settings.ami_host, self._settings.ami_port, *self._user(role),
            events=events, on_event=self._receive if events else None,
        )  # fmt: skip

    def _user(self, role: str) -> tuple[str, str]:
        settings = self._settings
        if role == EVENTS:
            return settings.ami_events_username, settings.ami_events_secret
        return settings.ami_username, settings.ami_secret

    def _refused(self, role: str, error: LoginRefused) -> None:
        username = self._user(role)[0]
        gate = self._gates[username]
        sentence = refusal(self._settings, username, error)
        if not gate.accepted:
            raise SettingsError(sentence)
        self.why = sentence
        if not gate.complained:
            gate.complained = True
            log.error("login refused", session=role, hint=sentence, retry_s=REFUSED_RETRY_S)

    def _receive(self, event: Event) -> None:
        self._on_event(event)
        if event.name == "FullyBooted":
            self._booted.set()
            self._watch_boot(False)
            self._look_if_ready()

    def _watch_boot(self, wanted: bool) -> None:
        if self._boot_timer is not None:
            self._boot_timer.cancel()
        self._boot_timer = None
        if wanted:
            self._boot_timer = asyncio.get_running_loop().call_later(BOOT_PATIENCE_S, self._complain_of_boot)

    def _complain_of_boot(self) -> None:
        user = self._settings.ami_events_username
        hint = (
            f"it is still starting, or user {user!r} lacks the class system in read= of its manager.conf;"
            " a user of its own for the events is set by ami_events_username"
        )
        log.warning("actions wait for Asterisk's event FullyBooted", waited_s=BOOT_PATIENCE_S, hint=hint)
        self.why = f"actions wait for Asterisk's event FullyBooted: {hint}"

    def _arrive(self, role: str, connection: Connection) -> None:
        self._connections[role] = connection
        self.banner = connection.banner
        if role == EVENTS and not self._booted.is_set():
            self._watch_boot(True)
        if self._are_all:
            self.why = ""
        if self.is_ready:
            log.info("asterisk session is back", session=role)
            self._on_back(role)
        self._look_if_ready()

    def _look_if_ready(self) -> None:
        if self.is_ready or not self._booted.is_set() or not self._are_all:
            return
        self.ready.set()
        self.why = ""
        log.info("asterisk is here", address=self._settings.ami, banner=self.banner)
        self._on_ready()

    @property
    def _are_all(self) -> bool:
        return len(self._connections) == 1 + len(ACTION_ROLES)

    def _leave(self, role: str, why: str) -> None:
        self._connections.pop(role, None)
        self.why = why
        if self.is_ready or self._lost:
            self._tell_of_loss(role, why)
        if role == EVENTS:
            self._booted.clear()
            self._watch_boot(False)
            self.ready.clear()
        self._on_away(role, why)

    def _tell_of_loss(self, role: str, why: str) -> None:
        if not self._lost:
            asyncio.get_running_loop().call_later(GATHER_S, self._log_loss)
        self._lost[role] = why

    def _log_loss(self) -> None:
        lost, self._lost = self._lost, {}
        log.warning("asterisk session lost", session=",".join(lost), why=next(iter(lost.values())))


def is_refusal(error: LoginRefused) -> bool:
    """Whether this user is not let in. Else Asterisk takes no login at the moment: it is shutting down."""
    return error.wrong_credentials or _in_use(error)


def refusal(settings: Settings, username: str, error: LoginRefused) -> str:
    """What an operator is told of a refused login."""
    setting = "AMIBUS_AMI_SECRET" if username == settings.ami_username else "AMIBUS_AMI_EVENTS_SECRET"
    advice = f"compare the user name and {setting} (or {setting}_FILE) with its manager.conf"
    if _in_use(error):
        advice = "set allowmultiplelogin=yes for it in manager.conf, since the worker has several sessions"
    return f"Asterisk at {settings.ami} refused the login of {username!r} ({error.message}): {advice}"


def unsendable(username: str, error: LocalProtocolError) -> str:
    """What an operator is told of a user name that does not fit in a header."""
    return f"the user name {username!r} cannot be sent to Asterisk: {error}"


def _in_use(error: LoginRefused) -> bool:
    # Not for long, says the text; but a user who may log in once can never have the sessions that are needed.
    return "in use" in error.message.lower()
