"""Who may send now: the lease on Redis, its epoch, and what this host knows of it without asking."""

import asyncio
import json
import os
import secrets
import socket
import time
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from broker.scripts import Script
from workers.batch import passes, until_done
from workers.clock import ServerClock
from workers.config import Settings
from workers.notify import notify
from workers.redis_client import wrong_type

MARGIN: Final = 0.2
"""The part of the lease's life that is not relied on: two hosts' clocks may run at slightly different speeds."""

log = structlog.get_logger()


class LeaseLost(Exception):
    """Another worker has taken over; nothing more may be sent in this epoch's name."""


class Lease:
    """Held by one worker of a server at a time. A new holder counts the epoch up, which fences the old one."""

    def __init__(self, redis: "Redis", settings: Settings, clock: ServerClock) -> None:
        self._redis = redis
        self._settings = settings
        self._clock = clock
        self._acquire = Script("acquire", settings.keys)
        self._beat = Script("beat", settings.keys)
        self._release = Script("release", settings.keys)
        self._life_s = settings.lease_s
        self._valid_until = 0.0
        self._token = secrets.token_hex(8)
        """Tells this process from any other, also on the same host with the same pid."""
        self.epoch = 0
        self.started_at = 0.0

    async def acquire(self) -> None:
        """Wait until nobody else holds the lease, and take it."""
        waiting_for = ""
        while True:
            asked_at = time.monotonic()
            epoch, holder = await until_done("the lease", self._try)
            if epoch:
                self.epoch = epoch
                self._valid_until = asked_at + self._life_s * (1 - MARGIN)
                self.started_at = self._clock.now()
                log.info("lease taken", epoch=epoch, server=self._settings.server)
                return
            name = _name_of(holder)
            if name != waiting_for:
                log.info("standing by: another worker serves this server", server=self._settings.server, holder=name)
                waiting_for = name
            notify("WATCHDOG=1")  # standing by is what it is there for
            await asyncio.sleep(self._life_s / 10)

    async def renew(self, heartbeat: dict[str, Any]) -> None:
        """Renew the lease and write the heartbeat. Raises `LeaseLost`.

        The lease is renewed also where the heartbeat cannot be written, for something else has its key.
        """
        pairs = [text for name, value in heartbeat.items() for text in (name, str(value))]
        life_ms = int(self._life_s * 1000)
        asked_at = time.monotonic()
        answer = await self._beat(self._redis, self.epoch, self._holder(), life_ms, life_ms * 3, pairs)
        if not answer[0]:
            self._valid_until = 0.0
            raise LeaseLost(f"epoch {self.epoch} is over")
        self._valid_until = asked_at + self._life_s * (1 - MARGIN)
        self._clock.learn(int(answer[1]) + int(answer[2]) / 1e6, asked_at)
        if len(answer) > 3:
            raise wrong_type(self._settings.keys.worker, "hash")

    async def release(self) -> None:
        """Give it back, so that a standby need not wait for its end. While Redis is away it must."""
        self._valid_until = 0.0
        try:
            await self._release(self._redis, self.epoch)
        except Exception as error:
            if not passes(error):
                raise
            log.warning("the lease was not given back: redis is away", error=str(error), life_s=self._life_s)

    @property
    def is_valid(self) -> bool:
        """Whether nobody else can hold it now, by this host's monotonic clock alone. Ask it right before a write."""
        return time.monotonic() < self._valid_until

    @property
    def period_s(self) -> float:
        """How often it is to be renewed."""
        return self._life_s / 4

    async def _try(self) -> tuple[int, bytes]:
        answer = await self._acquire(self._redis, self.epoch, self._holder(), int(self._life_s * 1000))
        return int(answer[0]), answer[1]

    def _holder(self) -> str:
        settings = self._settings
        holder = {"worker": settings.name, "host": socket.gethostname(), "pid": os.getpid(), "asterisk": settings.ami}
        holder["token"] = self._token
        return json.dumps(holder)


def _name_of(holder: bytes) -> str:
    try:
        return str(json.loads(holder)["worker"])
    except (ValueError, KeyError, TypeError):
        return repr(holder)
