"""Events published by our pump, against panoramisk parsing the same bytes."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from tests.bench.bus import KEYS, Asterisk, Bus, running_bus
from tests.bench.capture import LAST_EVENT
from tests.bench.comparison import Comparison
from tests.bench.options import Options
from tests.bench.side import DEADLINE_S, Side

LEGS: Final = {f"bench-leg-{number}": f"bench-call-{number}" for number in range(100)}
"""Calls of the bus that are alive meanwhile (Uniqueid -> ActionID): every event is compared with them."""

TRIES: Final = 5
"""Of a round: now and then panoramisk (1.4) takes two messages for one, and may give up its connection then."""

USERS: Final = {"amibus": "any", "amibus-events": "any"}


async def compare_events(options: Options) -> Comparison:
    """Both sides in turn, several rounds."""
    comparison = Comparison(
        "events",
        "events/s",
        ours="read, parse, compare with 100 live calls, msgpack, XADD and PUBLISH; until the last is published",
        theirs="read, parse, call one callback; until the last callback",
    )
    async with AsyncExitStack() as stack:
        our_feeder = await stack.enter_async_context(Side("feeder", *LEGS))
        theirs = await stack.enter_async_context(Panoramisk(options))
        asterisk = Asterisk((await our_feeder.answer())["port"], USERS)
        bus = await stack.enter_async_context(
            running_bus(options.redis, options.loop, asterisk, legs=LEGS, profile=options.profile_of("events"))
        )
        for _ in range(options.rounds):
            comparison.add(
                ours=await _published(bus, our_feeder, options.events),
                theirs=await theirs.parsed(options.events),
            )
    return comparison


async def _published(bus: Bus, feeder: Side, events: int) -> float:
    """Events per second until the last one is in the stream and on its channel."""
    before = bus.added(KEYS.events)
    # Events go out in order, each on the stream and its channel at once: the last one's message says that all are out.
    with bus.client.pubsub() as channel:
        channel.subscribe(KEYS.event(LAST_EVENT))
        if channel.get_message(timeout=DEADLINE_S) is None:
            raise TimeoutError("Redis did not confirm the subscription")
        feeder.tell("flood", events=events)
        ended_at = await asyncio.to_thread(_wait_for_message, channel)
    began_at = (await feeder.answer())["began_at"]
    published = bus.added(KEYS.events) - before
    if published != events:
        raise RuntimeError(f"{published} of {events} events were published")
    return events / float(ended_at - began_at)


class Panoramisk:
    """The other side with what feeds it; both begin anew where it has lost its connection."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def _begin(self) -> None:
        self.feeder = await self._stack.enter_async_context(Side("feeder"))
        self._side = await self._stack.enter_async_context(Side("panoramisk_side", self._options.loop))
        port = (await self.feeder.answer())["port"]
        await self._side.ask("connect", port=port, username="bench", secret="any")

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def parsed(self, events: int) -> float:
        """Events per second until the last callback. Raises `RuntimeError` where it fails time and again."""
        for _ in range(TRIES):
            self.feeder.tell("flood", events=events)
            parsed = await self._side.ask("events")
            if parsed["ended_at"] is None:
                print("panoramisk lost its connection: its round is repeated", file=sys.stderr)
                await self._stack.aclose()
                await self._begin()
                continue
            began_at = (await self.feeder.answer())["began_at"]
            if parsed["events"] == events:
                return events / float(parsed["ended_at"] - began_at)
            print(f"panoramisk told of {parsed['events']} events: its round is repeated", file=sys.stderr)
        raise RuntimeError(f"panoramisk did not get through {events} events in {TRIES} tries")


def _wait_for_message(channel: Any) -> float:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if channel.get_message(timeout=1) is not None:
            return time.monotonic()
    raise TimeoutError("the last event was not published")
