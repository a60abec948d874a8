"""The bus's calls as Redis knows them: taken over from it at the start, and told anew when it has gone back in time."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from broker.codec import FINAL_STATES
from broker.keys import Keys
from broker.scripts import MAX_BATCH
from workers.batch import until_done
from workers.calls import Calls
from workers.event_pump import EventPump
from workers.record_fields import record_fields
from workers.redis_client import REDIS_TIMEOUT_S
from workers.settlement import Fate

FORGOTTEN_PERIOD_S: Final = 1.0
"""How often it is looked whether the fate is known of an action whose call's end Redis has forgotten."""


class KnownCalls:
    """Reads the legs and records of calls, and sets right what Redis has forgotten of them. `is_over` says whether the
    worker stops."""

    def __init__(self, redis: "Redis", keys: Keys, calls: Calls, pump: EventPump, is_over: Callable[[], bool]) -> None:
        self._redis = redis
        self._keys = keys
        self._calls = calls
        self._pump = pump
        self._is_over = is_over

    async def load(self) -> None:
        """Take over the calls that are alive, and those that were about to be placed; and tell Redis what it has
        forgotten of those that are followed already."""
        legs, records = await until_done("the calls alive", self._read)
        for note in self._calls.recall(legs):
            self._pump.note(note)
        self._calls.load(legs, records)

    async def restore(self, settle: Callable[[Sequence[Fate]], Awaitable[None]]) -> None:
        """Write anew the records that Redis has forgotten of calls that this process has placed."""
        requests = self._calls.requests()
        records = await until_done("the calls alive", lambda: self._read_records(requests))
        lost = [action_id for action_id in requests if action_id not in records]
        for first in range(0, len(lost), MAX_BATCH):
            some = lost[first : first + MAX_BATCH]
            await settle([(requests[action_id], self._calls.fate(action_id), None) for action_id in some])

    async def tell_again(self) -> None:
        """Redis may have gone back in time: tell it what it has forgotten of our calls, and go on until all it takes
        for alive is."""
        await self._pump.flush()  # the end of some may have waited for Redis
        for note in self._calls.recall(await self._legs()):
            self._pump.note(note)
        # Looked at for as long as something may be under way to the Redis that was, which is told in vain; and not only
        # before the above: of a call that has ended since, Redis was told that its last leg is gone, and of no other.
        until = time.monotonic() + REDIS_TIMEOUT_S
        ended: set[str] = set()
        while (time.monotonic() < until or ended) and not self._is_over():
            if time.monotonic() < until:
                ended |= self._calls.unknown_of(await self._legs())
                await self._pump.flush()
            ended = await self._end_forgotten(ended)
            await asyncio.sleep(FORGOTTEN_PERIOD_S)

    async def _end_forgotten(self, ended: set[str]) -> set[str]:
        """End the calls of these actions that Redis takes for alive. Returns those of which somebody is about to find
        out what became of them: only then is it known that their calls are over."""
        legs = await self._legs()
        # Also of a call that is only expected: its entry came again, and Redis may know more legs of it.
        for note in self._calls.drop_gone(legs):
            self._pump.note(note)
        unknown, open_ones = self._calls.unknown_of(legs), set()
        alive = ended.intersection(legs.values())
        records = await until_done("the calls alive", lambda: self._read_records(alive))
        for action_id in alive:
            record = records.get(action_id)
            if record is not None and record.get("state") not in FINAL_STATES:
                open_ones.add(action_id)
            elif action_id in unknown:  # also where Redis has forgotten that there was a call at all
                note = self._calls.end_forgotten(action_id, [leg for leg, of in legs.items() if of == action_id])
                self._pump.announce("BusCallEnded", [action_id], [note], action_id=action_id, reason="redis forgot it")
        return open_ones

    async def _legs(self) -> dict[str, str]:
        legs: dict[str, str] = await until_done("the calls alive", self._read_legs)
        return legs

    async def _read(self) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """The legs that Redis takes for alive (Uniqueid -> ActionID), and of each action what its record says."""
        legs = await self._read_legs()
        return legs, await self._read_records(dict.fromkeys(legs.values()))

    async def _read_legs(self) -> dict[str, str]:
        raw: Any = await self._redis.hgetall(self._keys.legs)
        legs: dict[str, str] = {}
        for uniqueid, action_id in raw.items():
            with contextlib.suppress(UnicodeDecodeError):  # somebody else's: ours are text
                legs[uniqueid.decode()] = action_id.decode()
        return legs

    async def _read_records(self, action_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """What the record of each action says of its call, and its state; nothing of an action that has none."""
        names, records = ("state", "call", "uniqueid"), {}
        for action_id in action_ids:
            values = await record_fields(self._redis, self._keys, action_id, names)
            if any(values):
                known = [(name, value) for name, value in zip(names, values, strict=True) if value]
                records[action_id] = {name: value.decode(errors="replace") for name, value in known}
        return records
