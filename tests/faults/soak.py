"""`python -m tests.faults.soak`: many actions of every kind through one worker; ends 1 if anything grows or stays.

The worker keeps for some seconds what it otherwise keeps for two hours; `--keep 7200` shows how it grows with that.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from broker.keys import LANES
from tests.faults.redis_stage import resident_mb
from tests.faults.soak_mix import READS, actions
from tests.faults.world import AsteriskSide
from tests.servers import KINDS, RedisServer, binary
from tests.workers.worker_process import EVENTS_SECRET, SECRET, SERVER, Desk, WorkerProcess
from workers.config import Settings

BACKLOG: Final = 2000
"""So many entries are queued at most: more than the worker has on its way, less than it may hold."""

CHUNK: Final = 200
"""Entries added at once."""

POLL_S: Final = 0.05
MARKS: Final = (0.1, 0.5, 1.0)
"""The parts of the way at which figures are taken."""

FLAT: Final = 0.10
"""Memory may grow by so much from the first mark to the last."""

FLAT_FILES: Final = 4
"""And so many files more may be open: connections to Redis come as they are needed."""

SLACK_S: Final = 60.0
"""Without any progress for so long it has failed."""

Say = Callable[[str], None]


@dataclass
class Mark:
    """What was seen at one point of the way."""

    settled: int
    seconds: float
    rss_mb: float
    files: int
    pending: int

    def __str__(self) -> str:
        return (
            f"{self.settled} settled after {self.seconds:.0f} s: {self.rss_mb:.1f} MB, {self.files} files open, "
            f"{self.pending} pending"
        )


@dataclass
class Figures:
    """What a soak has shown."""

    actions: int
    marks: list[Mark] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    journal_kb: float = 0.0
    faults: list[str] = field(default_factory=list)
    """What must not be; empty: all is well."""

    def lines(self) -> list[str]:
        """For people."""
        told = [str(mark) for mark in self.marks]
        if self.marks:
            last = self.marks[-1]
            told.append(
                f"{last.settled / last.seconds:.0f} actions/s; memory {self.growth():+.1%} since the first mark"
            )
        told.append(f"states: {', '.join(f'{name} {count}' for name, count in self.states.items())}")
        told.append(f"lengths: {', '.join(f'{name} {length}' for name, length in self.lengths.items())}")
        told.append(f"the journal's file: {self.journal_kb:.0f} kB")
        told += [f"BROKEN: {fault}" for fault in self.faults]
        return [*told, "verdict: " + ("broken" if self.faults else "nothing grows, nothing stays")]

    def growth(self) -> float:
        """Of the memory, from the first mark to the last."""
        return self.marks[-1].rss_mb / self.marks[0].rss_mb - 1


class SoakWorker(WorkerProcess):
    """A worker with a short memory."""

    def __init__(self, settings: Settings, keep_s: float, **environment: str) -> None:
        super().__init__(settings, **environment)
        self.command = ("-m", "tests.faults.soak_worker", f"{keep_s:g}")


class Soak:
    """One run."""

    def __init__(self, count: int, *, kind: str = "redis", keep_s: float = 10.0, flat: float = FLAT) -> None:
        self.count = count
        self.figures = Figures(count)
        self._kind = kind
        self._keep_s = keep_s
        self._flat = flat

    async def run(self, say: Say) -> Figures:
        """Queue them all, wait until all is settled and every call over, and judge."""
        server = RedisServer(self._kind)
        await asyncio.to_thread(server.start)
        try:
            with tempfile.TemporaryDirectory(prefix="amibus-soak-") as directory:
                async with AsteriskSide(Path(directory, "writes"), 1) as asterisk, Desk(server.url) as desk:
                    worker = SoakWorker(
                        _settings(server, asterisk, directory), self._keep_s, AMIBUS_LOG_LEVEL="error",
                        XDG_STATE_HOME=directory,
                    )  # fmt: skip
                    async with worker:
                        await worker.connected()
                        run = _Run(self, worker, desk, asterisk, say)
                        await run.soak()
                        self.figures.journal_kb = _journal_bytes(Path(directory)) / 1024
                        await run.judge(self._flat)
        finally:
            await asyncio.to_thread(server.stop)
        return self.figures


class _Run:
    """The parts of a run while all of it is there."""

    def __init__(self, soak: Soak, worker: WorkerProcess, desk: Desk, asterisk: AsteriskSide, say: Say) -> None:
        self._figures = soak.figures
        self._count = soak.count
        self._worker = worker
        self._desk = desk
        self._asterisk = asterisk
        self._say = say
        self._began = time.monotonic()
        self._added = 0

    async def soak(self) -> None:
        producing = asyncio.create_task(self._produce())
        try:
            for mark in MARKS:
                await self._until_settled(int(self._count * mark), producing)
                await self._take_mark()
            await producing
        finally:
            producing.cancel()
        await self._until(self._is_at_rest)

    async def judge(self, flat: float) -> None:
        """Compare what is with what must be."""
        figures, desk = self._figures, self._desk
        keys = desk.keys
        named = {name: getattr(keys, name) for name in ("actions", "urgent", "events", "results", "dead")}
        figures.lengths = {name: await desk.redis.xlen(key) for name, key in named.items()}
        figures.lengths |= {"legs": await desk.redis.hlen(keys.legs), "pending": await desk.pending()}
        beat = await desk.heartbeat()
        names = ("done", "failed", "rejected", "expired", "cancelled", "unknown", "duplicates")
        figures.states = {name: int(beat[name]) for name in names}
        faults = figures.faults
        for name in (*LANES, "legs", "pending"):
            if figures.lengths.get(name):
                faults.append(f"{figures.lengths[name]} left: {name}")
        if beat["calls"] != "0":
            faults.append(f"{beat['calls']} calls are followed that are over")
        if sum(figures.states.values()) != self._count:
            faults.append(f"{sum(figures.states.values())} of {self._count} entries have a fate")
        if figures.states["unknown"]:
            faults.append(f"{figures.states['unknown']} are unknown, and nothing befell them")
        faults += self._twice()
        first, last = figures.marks[0], figures.marks[-1]
        if figures.growth() > flat:
            faults.append(f"memory has grown by {figures.growth():.1%}")
        if last.files > first.files + FLAT_FILES:
            faults.append(f"{last.files - first.files} files more are open")
        errors = [line for line in self._worker.log if line.get("level") in ("error", "critical")]
        faults += [f"the worker said: {line}" for line in errors[:5]]

    def _twice(self) -> list[str]:
        written, _ = self._asterisk.written(0)
        counts = Counter(write.action_id for write in written if write.action not in READS)
        twice = [action_id for action_id, count in counts.items() if count > 1]
        return [f"{len(twice)} were written twice, such as {twice[0]}"] if twice else []

    async def _produce(self) -> None:
        pipeline = self._desk.redis.pipeline(transaction=False)
        for _, fields in actions(self._count):
            pipeline.execute_command("XADD", self._desk.keys.actions, "*", *fields)
            self._added += 1
            if len(pipeline) >= CHUNK or self._added == self._count:
                await pipeline.execute()
                while await self._desk.redis.xlen(self._desk.keys.actions) > BACKLOG:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)  # no server tells when a stream has become shorter

    async def _until_settled(self, count: int, producing: "asyncio.Task[None]") -> None:
        step = max(1, self._count // 20)
        told = await self._settled() // step
        last, at = -1, time.monotonic()
        while (settled := await self._settled()) < count:
            if producing.done():
                producing.result()
            if settled // step > told:
                told = settled // step
                self._say(f"{settled} of {self._count}, {resident_mb(self._worker.pid):.1f} MB")
            if settled != last:
                last, at = settled, time.monotonic()
            if time.monotonic() - at > SLACK_S:
                raise TimeoutError(
                    f"nothing is settled any more: {settled} of {self._count}; {self._worker.text[-2000:]}"
                )
            await asyncio.sleep(POLL_S)

    async def _settled(self) -> int:
        return self._added - int(await self._desk.redis.xlen(self._desk.keys.actions))

    async def _take_mark(self) -> None:
        pid = self._worker.pid
        self._figures.marks.append(
            Mark(
                await self._settled(),
                time.monotonic() - self._began,
                resident_mb(pid),
                len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
                await self._desk.pending(),
            )
        )

    async def _is_at_rest(self) -> bool:
        """Nothing is queued, every call is over, and the heartbeat has counted all."""
        beat = await self._desk.heartbeat()
        return beat.get("queued") == "0" and beat.get("calls") == "0" and beat.get("in_flight") == "0"

    async def _until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + SLACK_S
        while not await condition() and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


def _settings(server: RedisServer, asterisk: AsteriskSide, directory: str) -> Settings:
    return Settings(
        redis=server.url, server=SERVER, ami=f"127.0.0.1:{asterisk.port}", ami_username="amibus", ami_secret=SECRET,
        ami_events_username="amibus-events", ami_events_secret=EVENTS_SECRET, rate_calls=0, lease_s=5, name="soak",
        journal_dir=directory,
    )  # fmt: skip


def _journal_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.journal"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--actions", type=int, default=200_000, help="how many (default 200000)")
    parser.add_argument("--redis", choices=KINDS, default="redis", help="kind of server (default redis)")
    parser.add_argument("--keep", type=float, default=10.0, metavar="SECONDS", help="the worker's memory (default 10)")
    given = parser.parse_args(arguments)
    if binary(given.redis) is None:
        print(f"no {given.redis} server: see tests/servers.py, or choose by --redis", file=sys.stderr)
        return 2
    soak = Soak(given.actions, kind=given.redis, keep_s=given.keep)
    figures = asyncio.run(soak.run(lambda text: print(text, file=sys.stderr, flush=True)))
    print("\n".join(figures.lines()))
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main())
