"""Pings through the bus, against panoramisk straight on the same Asterisk."""

import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from tests.bench.bus import KEYS, SERVER, Asterisk, Bus, running_bus, wait_until
from tests.bench.comparison import Comparison
from tests.bench.options import Options
from tests.bench.side import Side
from tests.lab import LabAsterisk

CALLERS: Final = 100
SETTLE_DEADLINE_S: Final = 60.0
XADDS_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Stage:
    """Everything that takes part."""

    bus: Bus
    theirs: Side
    client: Side


async def compare_pings(options: Options) -> list[Comparison]:
    """Draining, many callers at once, and one caller; both sides in turn, several rounds."""
    drained = Comparison(
        "pings drained",
        "Pings/s",
        ours="entries that wait in the stream until their results are out, a record of each kept",
        theirs=f"{CALLERS} concurrent callers in one process, straight on Asterisk",
    )
    requested = Comparison(
        "pings requested",
        "Pings/s",
        ours=f"{CALLERS} concurrent callers of our client in one process, through the bus and back",
        theirs=f"{CALLERS} concurrent callers in one process, straight on Asterisk",
        judged=False,
    )
    alone = Comparison(
        "one ping",
        "ms",
        ours="median of one caller of our client, through the bus and back",
        theirs="median of one caller straight on Asterisk",
        judged=False,
        less_is_better=True,
    )
    async with AsyncExitStack() as stack:
        stage = await _set(stack, options)
        for number in range(options.rounds):
            theirs = _rate(await stage.theirs.ask("pings", count=options.pings, callers=CALLERS), options.pings)
            drained.add(ours=await _drained(stage.bus, options.pings, number), theirs=theirs)
            # A client's own work is the greater part, so fewer tell as much.
            count = max(CALLERS, options.pings // 4)
            requested.add(
                ours=_rate(await stage.client.ask("pings", count=count, callers=CALLERS), count), theirs=theirs
            )
            count = max(10, options.pings // 40)
            alone.add(
                ours=(await stage.client.ask("one_by_one", count=count))["median_ms"],
                theirs=(await stage.theirs.ask("one_by_one", count=count))["median_ms"],
            )
    return [drained, requested, alone]


async def _set(stack: AsyncExitStack, options: Options) -> Stage:
    asterisk = await stack.enter_async_context(LabAsterisk("22"))
    theirs = await stack.enter_async_context(Side("panoramisk_side", options.loop))
    await theirs.ask("connect", port=asterisk.port, username="amibus", secret=asterisk.users["amibus"])
    bus = await stack.enter_async_context(
        running_bus(
            options.redis, options.loop, Asterisk(asterisk.port, asterisk.users), profile=options.profile_of("pings")
        )
    )
    client = await stack.enter_async_context(Side("client_side", options.loop, bus.redis.url, SERVER))
    return Stage(bus, theirs, client)


async def _drained(bus: Bus, pings: int, number: int) -> float:
    """Pings per second, from when the worker may begin (with all entries in the stream) until the last is settled."""
    before = bus.added(KEYS.results)
    # Stopped, the worker can take nothing while the queue is filled: the producer's work is not measured.
    bus.worker.send(signal.SIGSTOP)
    try:
        _fill(bus, pings, number)
        began_at = bus.now()
    finally:
        bus.worker.send(signal.SIGCONT)
    await wait_until("the queue is empty", lambda: not bus.client.xlen(KEYS.actions), SETTLE_DEADLINE_S)
    settled = bus.added(KEYS.results) - before
    results = bus.client.xrevrange(KEYS.results, count=pings)
    states = {fields[b"state"] for _, fields in results}
    if settled != pings or states != {b"done"}:
        raise RuntimeError(f"{settled} of {pings} Pings were settled, their states: {states}")
    ended_at = int(results[0][0].partition(b"-")[0]) / 1000  # Redis' time of the last result
    return pings / (ended_at - began_at)


def _fill(bus: Bus, pings: int, number: int) -> None:
    for first in range(0, pings, XADDS_AT_ONCE):
        with bus.client.pipeline(transaction=False) as pipeline:
            for each in range(first, min(first + XADDS_AT_ONCE, pings)):
                pipeline.xadd(KEYS.actions, {"Action": "Ping", "ActionID": f"bench-{number}-{each}"})
            pipeline.execute()


def _rate(answer: dict[str, float], pings: int) -> float:
    if answer["pings"] != pings:
        raise RuntimeError(f"{answer['pings']} of {pings} Pings were answered")
    return pings / answer["seconds"]
