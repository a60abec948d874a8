"""Who may send now: the lease on Redis, its epoch, and what this host knows of it without asking."""

import asyncio
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

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

STILL: Final = 1.5
"""Lives of the lease after which a heartbeat that stands still is that of a dead worker: a living one beats four times
in a life."""

LEFT: Final = 2.0
"""Lives of the lease for which a free one is left to others, who look ten times in a life."""

DOUBTS: Final = 16
"""So many are kept: of the two oldest of more than that one is made."""

Holder = dict[str, str]
"""What the lease says of its holder: worker, host, pid, asterisk (address), entity, token."""

log = structlog.get_logger()


class LeaseLost(Exception):
    """Another worker has taken over; nothing more may be sent in this epoch's name."""


class Doubt(NamedTuple):
    """Redis may have forgotten what the holders of these epochs did with entries that were added before this (unix
    seconds by its clock). It lasts from holder to holder: only their journals dispel it."""

    first: int
    last: int
    before: float


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
        """Ours; while standing by, the highest that has been seen."""
        self.epoch_before = 0
        """The epoch before ours; 0: none."""
        self.epoch_remembered = 0
        """The one that Redis took for that: a lower one, if it has gone back in time. 0: it knew of none."""
        self.has_gone_back = False
        """Redis did not remember the epoch before ours."""
        self.redis_before = ""
        """What its holder knew Redis by: see `identify_redis`."""
        self._identified = ("", 0)
        self.doubts: list[Doubt] = []
        """As later holders are to hear of them."""
        self.entity = ""
        """The entity id of the Asterisk that is served, once it is known; told to those who stand by."""
        self.started_at = 0.0

    async def acquire(self, on_look: Callable[[Holder], bool] | None = None) -> None:
        """Wait until nobody else holds the lease, and take it.

        `on_look` hears of the present holder (empty: there is none) at each look, and says whether others are to go
        first: then a free lease is taken only when it has been free for `LEFT` lives.
        """
        waiting_for = ""
        seen, since, dead_beat = (b"", b""), time.monotonic(), b""
        is_left, left_until = False, math.inf
        while True:
            await until_done("redis' time", lambda: self._clock.ask(self._redis))
            asked_at = time.monotonic()
            take = not is_left or asked_at >= left_until
            epoch, *answer = await until_done("the lease", lambda: self._try(dead_beat, take))  # noqa: B023
            if epoch:
                self._begin(epoch, int(answer[1]), answer[2], asked_at)
                return
            self.epoch = max(self.epoch, int(answer[2]))
            holder = _read_holder(answer[0]) if answer[0] else {}
            if on_look is not None:
                is_left = on_look(holder)
            if answer[0]:
                left_until = math.inf
                name = holder.get("worker", "?")
                if name != waiting_for:
                    waiting_for = name
                    log.info(
                        "standing by: another worker serves this server", server=self._settings.server, holder=name
                    )
                if seen != (answer[0], answer[1]):
                    seen, since = (answer[0], answer[1]), asked_at
                still = time.monotonic() - since > self._life_s * STILL
                if still and not dead_beat:
                    log.error(
                        "the lease lives on and its worker does not: has Redis' clock been set back?", holder=name
                    )
                dead_beat = answer[1] if still else b""
            elif not is_left:
                continue  # as it has turned out since the look before
            elif left_until == math.inf:
                waiting_for, seen, left_until = "", (b"", b""), asked_at + self._life_s * LEFT
                log.warning("nobody serves this server: left to other standbys for a while", wait_s=self._life_s * LEFT)
            notify("WATCHDOG=1")  # standing by is what it is there for
            await asyncio.sleep(self._life_s / 10)

    def _begin(self, epoch: int, remembered: int, redis_before: bytes, asked_at: float) -> None:
        self.epoch_remembered = remembered
        self.has_gone_back = remembered < self.epoch
        self.epoch_before = max(self.epoch, remembered)
        self.redis_before = redis_before.decode(errors="replace")
        self.epoch = epoch
        self._valid_until = asked_at + self._life_s * (1 - MARGIN)
        self.started_at = self._clock.now()
        log.info("lease taken", epoch=epoch, server=self._settings.server)

    async def overtake(self, epoch: int) -> None:
        """Take the lease, which is ours, anew, one above this epoch, which Redis has forgotten."""
        remembered = min(self.epoch_remembered, epoch)
        self.epoch = max(self.epoch, epoch)
        await self.acquire()
        self.epoch_remembered, self.epoch_before, self.has_gone_back = remembered, epoch, True

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

    async def identify_redis(self) -> str:
        """Say to later holders which Redis this is: its replication id, another one after a restart or a failover. By
        that they learn whether it may have gone back in time since. Where it has changed in our own time, they learn
        that what we did before is in doubt. Returns the id."""
        known_by = await self.ask_redis()
        _, epoch = self._identified
        if (known_by, self.epoch) != self._identified:
            doubts = [*self.doubts]
            if epoch == self.epoch:
                doubts.append(Doubt(epoch, epoch, self._clock.now()))
            if len(doubts) > DOUBTS:
                older, newer, *others = doubts
                doubts = [Doubt(min(older.first, newer.first), max(older.last, newer.last), newer.before), *others]
            mapping: dict[Any, Any] = {"epoch": self.epoch, "redis": known_by, "doubts": json.dumps(doubts)}
            await self._redis.hset(self._settings.keys.holder, mapping=mapping)
            self._identified, self.doubts = (known_by, self.epoch), doubts
        return known_by

    async def ask_redis(self) -> str:
        """The replication id of this Redis."""
        info = await self._redis.info("replication")
        return str(info.get("master_replid", ""))

    async def read_doubts(self) -> None:
        """Hear what earlier holders left in doubt."""
        found: Any = await self._redis.hmget(self._settings.keys.holder, ["doubts"])
        self.doubts = _read_doubts(found[0])

    async def _try(self, dead_beat: bytes, take: bool) -> list[Any]:
        life_ms = int(self._life_s * 1000)
        mode = "1" if take else "0"
        answer: list[Any] = await self._acquire(self._redis, self.epoch, self._holder(), life_ms, dead_beat, mode)
        return answer

    def _holder(self) -> str:
        settings = self._settings
        holder = {
            "worker": settings.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "asterisk": settings.ami,
            "entity": self.entity,
            "token": self._token,
        }
        return json.dumps(holder)


def _read_doubts(text: bytes | None) -> list[Doubt]:
    try:
        return [Doubt(int(first), int(last), float(before)) for first, last, before in json.loads(text or b"[]")]
    except (ValueError, TypeError):
        return []  # somebody else wrote it


def _read_holder(text: bytes) -> Holder:
    try:
        return {str(name): str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        return {"worker": repr(text)}
