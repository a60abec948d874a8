"""Standing by: who could not serve lets others take over first; who would serve another Asterisk must not at all."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from broker.ami import LocalProtocolError, LoginRefused, RemoteProtocolError
from broker.errors import SettingsError
from broker.noise import without_noise
from workers.channels import entity_of, entity_question
from workers.config import Settings
from workers.connection import AnswerTimeout, Connection, ConnectionLost
from workers.lease import Holder, Lease
from workers.sessions import REFUSED_RETRY_S, is_refusal, refusal, unsendable

RETRY_S: Final = 10.0
"""How soon an Asterisk that could not be reached is looked for again."""

LOOK_S: Final = 60.0
"""How often one that could is looked for again: each time it is a login."""

AWAY: Final = "asterisk is away: other standbys take over first"
REFUSED: Final = "login refused: other standbys take over first"

log = structlog.get_logger()


class Standby:
    """Looks for our Asterisk while another worker serves, and compares it with the one that is served."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entity = ""
        self._is_here = False
        """Whether our Asterisk let us in at the last look."""
        self._accepted = False
        """It has let us in before: the secret was right once."""
        self._complaint = ""
        """What the log says of it."""
        self._look_at = 0.0
        """When the next look is due (monotonic)."""
        self._looking: asyncio.Task[None] | None = None

    async def take_over(self, lease: Lease, on_other: Callable[[], None] = lambda: None) -> None:
        """Take the lease once nobody else holds it; if our Asterisk is away, let other standbys go first. `on_other` is
        called whenever another worker is seen to serve.

        Raises `SettingsError` if it refuses the very first login, or if the worker that serves has another one, as far
        as that can be told.
        """
        self._accepted = self._accepted or bool(lease.entity)  # we have served it

        def on_look(holder: Holder) -> bool:
            if holder:
                on_other()
            return self._on_look(holder)

        try:
            await lease.acquire(on_look)
        finally:
            if self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def _on_look(self, holder: Holder) -> bool:
        """Whether others are to take over first."""
        # Not awaited: an Asterisk that keeps silent must not keep us from looking at the lease.
        if self._looking is None:
            self._looking = asyncio.create_task(self._watch(), name="standby")
            without_noise(self._looking)  # a stop may come before its error is looked at
        if self._looking.done():
            self._looking.result()
        theirs = holder.get("entity")
        if theirs and self._entity and self._entity != theirs:
            server, ami = self._settings.server, self._settings.ami
            raise SettingsError(
                f"worker {holder.get('worker')} serves {server} with Asterisk {theirs} (at {holder.get('asterisk')} "
                f"on {holder.get('host')}), and this one is set for another, {self._entity} at {ami}: give each "
                "Asterisk a server name of its own (AMIBUS_SERVER), or set AMIBUS_AMI to the same one"
            )
        return not self._is_here

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look_at - time.monotonic())
            self._look_at = time.monotonic() + await self._look()

    async def _look(self) -> float:
        """Look for our Asterisk. Returns how long this holds, in seconds."""
        settings = self._settings
        try:
            self._entity = await self._ask()
        except LocalProtocolError as error:
            raise SettingsError(unsendable(settings.ami_username, error)) from None
        except LoginRefused as error:
            if not is_refusal(error):
                return self._miss(AWAY, RETRY_S, error=error.message)
            sentence = refusal(settings, settings.ami_username, error)
            if not self._accepted:
                raise SettingsError(sentence) from None
            return self._miss(REFUSED, REFUSED_RETRY_S, hint=sentence)
        except (OSError, RemoteProtocolError, ConnectionLost, AnswerTimeout) as error:
            return self._miss(AWAY, RETRY_S, error=str(error) or "timeout")
        if self._complaint:
            log.info("asterisk is here for this standby again", address=settings.ami)
        self._is_here, self._accepted, self._complaint = True, True, ""
        return LOOK_S

    def _miss(self, complaint: str, retry_s: float, **why: str) -> float:
        self._is_here = False
        if self._complaint != complaint:
            self._complaint = complaint
            say = log.error if complaint == REFUSED else log.warning
            say(complaint, address=self._settings.ami, retry_s=retry_s, **why)
        return retry_s

    async def _ask(self) -> str:
        """Its entity id; empty if it does not say."""
        settings = self._settings
        user = (settings.ami_username, settings.ami_secret)
        connection = await Connection.open("standby", settings.ami_host, settings.ami_port, *user)
        try:
            return entity_of(await connection.request(entity_question()))
        finally:
            connection.abort("asked")
