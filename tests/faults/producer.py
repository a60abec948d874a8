"""Whoever queues actions: a seeded mix of all kinds, repeated with the same ActionID until Redis has accepted it."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import redis.asyncio as aredis
from redis.exceptions import RedisError

from broker.keys import ACTIONS, URGENT, Keys
from tests.faults.history import Entry

PRODUCERS: Final = ("anna", "ben", "carla")
TIMEOUT_S: Final = 1.5
"""Bus-Timeout of every action: what is not answered in a test is not waited for as long as in earnest."""

REPLY: Final = "judge"
RETRY_S: Final = 0.02
DUPLICATES: Final = 0.08
MALFORMED: Final = 0.04
URGENT_ONES: Final = 0.15
SHORT_LIVED: Final = 0.06
SHORT_LIVED_LISTS: Final = 0.4
"""What has begun to be answered must have its fate, too, where its deadline passes before it is asked again."""

LIFETIMES_S: Final = (0.01, 0.1, 0.5)
LIFETIMES_OF_LISTS_S: Final = (0.5, 1.0, 2.0)
"""Enough to have been begun; less than Asterisk may be away."""

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wish:
    """One entry to be queued."""

    action_id: str
    action: str
    fields: Fields
    """Its own headers and Bus- fields, without Action and ActionID."""
    lane: str
    producer: str
    cost: str
    is_repeatable: bool = True
    """Whether it names its ActionID, so that it can be queued again if the reply is lost."""

    @property
    def pairs(self) -> list[str]:
        """The field list of its XADD."""
        named = [("Action", self.action)] if self.action else []
        named += [("ActionID", self.action_id)] if self.action_id else []
        return [text for pair in (*named, *self.fields) for text in pair]


class Wishes:
    """An endless supply of them, by the seed."""

    def __init__(self, seed: int, prefix: str) -> None:
        self._random = random.Random(seed)
        self._prefix = prefix
        self._number = 0
        self._past: list[Wish] = []

    def next(self) -> Wish:
        """Another one; some have come before."""
        dice = self._random
        if self._past and dice.random() < DUPLICATES:
            return self._again(dice.choice(self._past[-40:]))
        self._number += 1
        if dice.random() < MALFORMED:
            return self._malformed()
        action, cost, headers = dice.choice(_KINDS)(self._number, dice)
        bus = [("Bus-Producer", dice.choice(PRODUCERS)), ("Bus-Timeout", f"{TIMEOUT_S}"), ("Bus-Reply", REPLY)]
        share, lifetimes_s = (SHORT_LIVED, LIFETIMES_S)
        if action == "QueueStatus":
            share, lifetimes_s = (SHORT_LIVED_LISTS, LIFETIMES_OF_LISTS_S)
        if dice.random() < share:
            bus.append(("Bus-Deadline", f"+{dice.choice(lifetimes_s)}"))
        lane = URGENT if dice.random() < URGENT_ONES else ACTIONS
        wish = Wish(f"{self._prefix}-{self._number}", action, (*headers, *bus), lane, bus[0][1], cost)
        self._past.append(wish)
        return wish

    def _again(self, wish: Wish) -> Wish:
        """A retry, perhaps on the other lane; or something else under the same ActionID."""
        if self._random.random() < 0.3 and wish.action in ("Setvar", "Hangup"):
            return replace(wish, fields=(("Variable", f"other{self._number}"), *wish.fields[1:]))
        return replace(wish, lane=self._random.choice((wish.lane, wish.lane, ACTIONS, URGENT)))

    def _malformed(self) -> Wish:
        dice, action_id = self._random, f"{self._prefix}-{self._number}"
        producer = ("Bus-Producer", PRODUCERS[0])
        whole = Wish(action_id, "Hangup", (producer,), ACTIONS, PRODUCERS[0], "changes")
        return dice.choice(
            (
                replace(whole, action=""),
                replace(whole, fields=(producer, ("Bus-Wish", "1"))),
                replace(whole, fields=(producer, ("Action", "Ping"))),
                replace(whole, action="Command", fields=(producer, ("Command", "core stop now"))),
                replace(whole, fields=(producer, ("Channel", "x" * 2000))),
                replace(whole, action_id="not an id", is_repeatable=False),
                replace(whole, action_id="", action="", is_repeatable=False),
            )
        )


def _ping(_number: int, _dice: random.Random) -> tuple[str, str, Fields]:
    return "Ping", "reads", ()


def _getvar(number: int, _dice: random.Random) -> tuple[str, str, Fields]:
    return "Getvar", "reads", (("Variable", f"v{number % 7}"),)


def _queue_status(_number: int, _dice: random.Random) -> tuple[str, str, Fields]:
    return "QueueStatus", "reads", ()


def _function(number: int, _dice: random.Random) -> tuple[str, str, Fields]:
    """Getvar of a function runs it: it counts as a change."""
    return "Getvar", "changes", (("Variable", f"DB(counter/{number})"),)


def _setvar(number: int, _dice: random.Random) -> tuple[str, str, Fields]:
    return "Setvar", "changes", (("Variable", f"v{number % 7}"), ("Value", str(number)))


def _hangup(number: int, _dice: random.Random) -> tuple[str, str, Fields]:
    return "Hangup", "changes", (("Channel", f"SIP/nobody-{number}"),)


def _originate(_number: int, dice: random.Random) -> tuple[str, str, Fields]:
    exten = dice.choice(("100", "100", "busy", "congestion"))
    return "Originate", "calls", (("Channel", f"Local/{exten}@default"), ("Application", "Wait"), ("Data", "0.02"))


_KINDS: Final[tuple[Callable[[int, random.Random], tuple[str, str, Fields]], ...]] = (
    _ping, _getvar, _queue_status, _function, _setvar, _setvar, _hangup, _hangup, _originate, _originate, _originate,
)  # fmt: skip


class Producer:
    """Queues wishes, and keeps what was accepted."""

    def __init__(self, keys: Keys, through: "aredis.Redis", direct: "aredis.Redis", wishes: Wishes) -> None:
        self._keys = keys
        self._through = through
        self._direct = direct
        self._wishes = wishes
        self.entries: list[Entry] = []
        self.retries = 0
        """How often a reply was lost, or an entry was not accepted."""

    async def queue(self, count: int) -> None:
        """Queue so many, one after the other: their order is then Redis' order."""
        for _ in range(count):
            await self.put(self._wishes.next())

    async def put(self, wish: Wish) -> None:
        """Queue this one, again and again until its reply has come."""
        while True:
            try:
                entry = await self._add(wish)
            except (RedisError, OSError):
                # Whether it was accepted nobody knows: the same again, under the same ActionID.
                self.retries += 1
                self._note(wish, "0-0", accepted=False)
                await asyncio.sleep(RETRY_S)
            else:
                self._note(wish, entry, accepted=True)
                return

    async def _add(self, wish: Wish) -> str:
        client: Any = self._through if wish.is_repeatable else self._direct
        entry: bytes = await client.execute_command("XADD", self._keys.lane(wish.lane), "*", *wish.pairs)
        return entry.decode()

    def _note(self, wish: Wish, entry: str, *, accepted: bool) -> None:
        action_id = wish.action_id
        if not wish.is_repeatable:  # its name is its entry's id, if that is known
            action_id = "" if not accepted else entry if wish.lane == ACTIONS else f"u.{entry}"
        self.entries.append(
            Entry(
                action_id, entry, wish.action, wish.lane, wish.producer, wish.cost,
                reads_only=wish.cost == "reads", accepted=accepted, replies=("Bus-Reply", REPLY) in wish.fields,
                deadline=_deadline(wish, entry) if accepted else 0.0, tried_at=0.0 if accepted else time.time(),
            )
        )  # fmt: skip


def _deadline(wish: Wish, entry: str) -> float:
    """Unix seconds by Redis' clock; 0: none of its own, or one that no worker understands."""
    text = dict(wish.fields).get("Bus-Deadline", "")
    return int(entry.partition("-")[0]) / 1000 + float(text) if text.startswith("+") else 0.0
