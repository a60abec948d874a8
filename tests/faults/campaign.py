"""Rounds of random faults, each from a seed of its own, and the verdict over them."""

import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError

from tests.faults.history import History, Violation, check
from tests.faults.kill_points import Orders
from tests.faults.mishaps import MISHAPS, ONLY_IN, WEIGHTS, usual
from tests.faults.redis_side import LAYOUTS
from tests.faults.tasks import end
from tests.faults.world import POLL_S, Round, World

BACKLOG: Final = 60
"""The producer waits while so many entries are queued: kill points should be met by what is under way, not a heap."""

BURST: Final = 12
ROUNDS_OF_A_WORLD: Final = 15
"""Then it is made anew, with the other layout of Redis; its append-only file has grown, too."""

MISHAPS_OF_A_ROUND: Final = (6, 16)
KILLS_OF_A_ROUND: Final = (15, 30)
KILLING_ROUNDS: Final = 0.3
"""The part of the rounds in which nothing befalls but kill points, one after the other."""


LOSING: Final = frozenset(("flushall", "power-lost", "failover"))
"""After these Redis may have gone back in time."""


@dataclass(frozen=True)
class Options:
    """What is to be run."""

    seed: int = 0
    kinds: Sequence[str] = ("redis", "valkey")
    minutes: float = 1.0
    actions: int = 0
    """Stop after so many; 0: by the time alone."""
    rounds: int = 0
    """The same for rounds."""
    only: Sequence[str] = ()
    """The faults to choose from; empty: the usual ones."""
    worlds: int = 2
    """How many at once: most of a round is waiting."""
    kill: Orders | None = None
    """Orders for the first worker of each round."""
    replay: int | None = None
    """The seed of the one round to be run again."""
    variant: str = ""
    layout: str = ""
    """One of `redis_side.LAYOUTS`; empty: by turns."""

    @property
    def played_seed(self) -> int:
        """The seed that decides all: that of the campaign, or of the one round."""
        return self.seed if self.replay is None else self.replay


@dataclass
class Failure:
    """A round in which a promise was broken."""

    seed: int
    kind: str
    layout: str
    mishaps: list[str]
    violations: list[Violation]
    directory: Path


@dataclass
class Tally:
    """What was done and what came of it."""

    rounds: int = 0
    actions: int = 0
    writes: int = 0
    lives: int = 0
    kills: int = 0
    """Lives that ended by SIGKILL."""
    retries: int = 0
    befell: "Counter[str]" = field(default_factory=Counter)
    """The effects of the faults: replies lost, connections reset, pauses, fail-overs ..."""
    allowed: "Counter[str]" = field(default_factory=Counter)
    """What was let pass because Redis had gone back in time."""
    mishaps: "Counter[str]" = field(default_factory=Counter)
    points: "Counter[str]" = field(default_factory=Counter)
    """Lives ended, or stopped, at each kill point."""
    seen: set[str] = field(default_factory=set)
    """Kill points seen."""
    states: "Counter[str]" = field(default_factory=Counter)
    unknown: "Counter[str]" = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counted = {
            name: dict(sorted(getattr(self, name).items()))
            for name in ("befell", "mishaps", "states", "unknown", "allowed", "points")
        }
        failures = [
            {
                "seed": each.seed, "redis": each.kind, "layout": each.layout, "mishaps": each.mishaps,
                "directory": str(each.directory),
                "violations": [str(violation) for violation in each.violations],
            }
            for each in self.failures
        ]  # fmt: skip
        plain = {name: getattr(self, name) for name in ("rounds", "actions", "writes", "lives", "retries", "kills")}
        return {**plain, **counted, "points_seen": len(self.seen), "failures": failures}


class Campaign:
    """Runs rounds until the time is over, in several worlds at once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tally = Tally()
        self._seeds = random.Random(options.seed)
        self._ends_at = time.monotonic() + options.minutes * 60
        self._handed_out = 0

    async def run(self) -> Tally:
        """Run it all; the tally says whether all went well."""
        options = self.options
        if options.replay is not None:
            await self._inhabit(options.kinds[0], options.layout or LAYOUTS[0], [options.replay])
            return self.tally
        async with asyncio.TaskGroup() as group:
            for number in range(max(options.worlds, len(options.kinds))):
                kind, turn = options.kinds[number % len(options.kinds)], number // len(options.kinds)
                group.create_task(self._live(kind, turn))
        return self.tally

    async def _live(self, kind: str, turn: int) -> None:
        for layout in itertools.islice(itertools.cycle(LAYOUTS), turn, None):
            if self._is_over:
                break
            await self._inhabit(kind, self.options.layout or layout, self._next_seeds())

    async def _inhabit(self, kind: str, layout: str, seeds: Sequence[int]) -> None:
        """One world, until a promise is broken in it or its rounds are over."""
        world = World(
            kind, seeds[0] if seeds else 0, variant=self.options.variant, layout=layout, small_disks=True, clocks=True
        )
        async with world:
            await discover(world)
            for number, seed in enumerate(seeds):
                # A world that was made is lived in, however long that took.
                if self.options.replay is None and (self._is_enough if number == 0 else self._is_over):
                    break
                self._handed_out += 1
                failure = await self._play(world, seed)
                if failure is not None:
                    self.tally.failures.append(failure)
                    world.keep = True
                    break
            self.tally.befell += world.befell
            for proxy in (world.redis_proxy, world.producer_proxy, world.ami_proxy):
                self.tally.befell += Counter({"replies lost": proxy.lost, "connections cut off": proxy.resets})
            self.tally.points += world.ended()
            self.tally.seen |= set(world.points())

    @property
    def _is_over(self) -> bool:
        return time.monotonic() > self._ends_at or self._is_enough

    @property
    def _is_enough(self) -> bool:
        options, tally = self.options, self.tally
        return bool(
            (options.actions and tally.actions >= options.actions)
            or (options.rounds and self._handed_out >= options.rounds)
        )

    def _next_seeds(self) -> list[int]:
        return [self._seeds.getrandbits(32) for _ in range(ROUNDS_OF_A_WORLD)]

    async def _play(self, world: World, seed: int) -> Failure | None:
        """One round; None if all was kept."""
        began = time.monotonic()
        dice = random.Random(seed)
        chosen = self._choose(dice, world.layout)
        # With a standby, the life that is to end at a point seldom serves.
        workers = dice.choice((1, 1, 1, 1, 2) if set(chosen) == {"kill-point"} else (1, 2, 2, 3))
        # Redis back in time and another host in charge is the one hole that the contract names: mostly there is none.
        hosts = dice.choice((1, 1, 1, 2) if LOSING & set(chosen) else (1, 2))
        done: list[str] = []
        violations: list[Violation] = []
        try:
            async with world.round(seed, workers, hosts, self._first(world)) as running:
                await running.serving()
                async with feeding(running, dice):
                    for name in chosen:
                        done.append(name)
                        await MISHAPS[name](running, dice)
                        await asyncio.sleep(dice.uniform(0, 0.1))
                history = await running.finish()
                self._count(running, history, done)
                violations = check(history)
                self.tally.allowed += history.allowed
                if violations:
                    keep(world, history, violations)
        except TimeoutError as error:
            violations = [Violation("stuck", "", f"{error or 'a worker did not end'}, after {', '.join(done)}")]
        self._report(world, seed, done, violations, time.monotonic() - began)
        if not violations:
            return None
        return Failure(seed, world.kind, world.layout, done, violations, world.directory)

    def _choose(self, dice: random.Random, layout: str) -> list[str]:
        if not self.options.only and dice.random() < KILLING_ROUNDS:
            return ["kill-point"] * dice.randint(*KILLS_OF_A_ROUND)
        names = [name for name in self.options.only or usual(layout) if ONLY_IN.get(name, layout) == layout]
        weights = [WEIGHTS.get(name, 1) for name in names]
        return dice.choices(names, weights, k=dice.randint(*MISHAPS_OF_A_ROUND))

    def _first(self, world: World) -> Orders | None:
        kill = self.options.kill
        return None if kill is None else world.orders(point=kill.point, visit=kill.visit)

    def _count(self, running: Round, history: History, done: list[str]) -> None:
        tally = self.tally
        tally.rounds += 1
        tally.actions += len(history.entries)
        tally.writes += len(history.writes)
        tally.lives += sum(slot.lives for slot in running.world.slots)
        tally.kills += sum(slot.kills for slot in running.world.slots)
        tally.retries += running.producer.retries
        tally.mishaps.update(done)
        tally.states += history.states
        tally.unknown += history.unknown_codes
        tally.befell["SIGKILLs"] += sum(slot.kills for slot in running.world.slots)

    def _report(self, world: World, seed: int, done: list[str], violations: list[Violation], seconds: float) -> None:
        verdict = "kept" if not violations else f"BROKEN ({len(violations)}): {violations[0]}"
        text = f"round {self.tally.rounds} {world.kind} {world.layout} seed {seed}: {len(done)} faults, {seconds:.1f} s"
        print(f"{text}, {verdict}; {self.tally.actions} actions so far", file=sys.stderr, flush=True)


async def discover(world: World) -> None:
    """A round without any fault, in which the kill points of a good day are seen."""
    async with world.round(1) as running:
        await running.serving()
        await running.producer.queue(100)
        await running.finish()


@contextlib.asynccontextmanager
async def feeding(running: Round, dice: random.Random) -> AsyncIterator[None]:
    """Queue actions as long as this lasts."""
    stop = asyncio.Event()
    bursts = random.Random(dice.getrandbits(32))

    async def feed() -> None:
        while not stop.is_set():
            backlog = BACKLOG
            with contextlib.suppress(RedisError, OSError):
                backlog = await running.observer.backlog()
            if backlog < BACKLOG:
                await running.producer.queue(bursts.randint(1, BURST))
            await asyncio.sleep(POLL_S)

    feeder = asyncio.create_task(feed(), name="feed")
    try:
        yield
        stop.set()
        await running.world.heal()  # what it waits for may be behind a proxy
        await feeder
    finally:
        await end(feeder)  # where the round has ended early, Redis may be away for good


def keep(world: World, history: History, violations: list[Violation]) -> None:
    """Write down what was seen and what is wrong with it, beside the workers' logs."""
    history.save(world.directory / "history.json")
    told: list[str] = []
    for violation in violations:
        told += [str(violation), *(f"    {line}" for line in history.story(violation.action_id))]
    (world.directory / "verdict.txt").write_text("\n".join(told) + "\n")
