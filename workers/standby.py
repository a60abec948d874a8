"""Standing by: a worker that would serve another Asterisk than the one that is served must not take over."""

import time
from typing import Final

import structlog

from broker.ami import LocalProtocolError, LoginRefused, RemoteProtocolError
from broker.errors import SettingsError
from workers.channels import entity_of, entity_question
from workers.config import Settings
from workers.connection import AnswerTimeout, Connection, ConnectionLost
from workers.lease import Holder

RETRY_S: Final = 10.0
"""How soon an Asterisk that could not be asked is asked again."""

log = structlog.get_logger()


class Standby:
    """Compares our Asterisk with that of the worker which serves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entity: str | None = None
        self._ask_at = 0.0

    async def check(self, holder: Holder) -> None:
        """Raise `SettingsError` if that worker serves another Asterisk than ours, as far as that can be told."""
        theirs = holder.get("entity")
        if not theirs or (self._entity is None and time.monotonic() < self._ask_at):
            return
        if self._entity is None:
            self._entity = await self._ask()
            self._ask_at = time.monotonic() + RETRY_S
        if self._entity and self._entity != theirs:
            server, ami = self._settings.server, self._settings.ami
            raise SettingsError(
                f"worker {holder.get('worker')} serves {server} with Asterisk {theirs} (at {holder.get('asterisk')} "
                f"on {holder.get('host')}), and this one is set for another, {self._entity} at {ami}: give each "
                "Asterisk a server name of its own (AMIBUS_SERVER), or set AMIBUS_AMI to the same one"
            )

    async def _ask(self) -> str | None:
        """Its entity id; None if it cannot be asked now."""
        settings = self._settings
        user = (settings.ami_username, settings.ami_secret)
        try:
            connection = await Connection.open("standby", settings.ami_host, settings.ami_port, *user)
        except (OSError, LoginRefused, RemoteProtocolError, LocalProtocolError, ConnectionLost) as error:
            log.info("the Asterisk of this standby cannot be asked what it is", address=settings.ami, error=str(error))
            return None
        try:
            return entity_of(await connection.request(entity_question()))
        except (ConnectionLost, AnswerTimeout):
            return None
        finally:
            connection.abort("asked")
