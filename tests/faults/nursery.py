"""The test's side of the nursery: lives of workers, started in a few milliseconds and ended by their pids."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.bench.side import ROOT
from tests.faults.kill_points import Orders

DEADLINE_S: Final = 60.0


@dataclass
class Life:
    """One worker process, from fork to end."""

    pid: int
    name: str
    orders: Orders
    log: Path
    ended: "asyncio.Future[int]" = field(repr=False)
    """Its exit code, negative for a signal."""
    is_condemned: bool = False
    """It was killed, or told to end, from outside."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.ended.done()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if not self.is_over:
            # Its end may not have been told yet; the nursery has not given the pid to anybody else by then.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it as a crash would."""
        self.is_condemned = True
        self.send(signal.SIGKILL)
        await self.wait()

    async def terminate(self) -> int:
        """Ask it to end; its exit code."""
        self.send(signal.SIGTERM)
        return await self.wait()

    async def wait(self) -> int:
        """Wait for its end; its exit code."""
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.shield(self.ended)

    @property
    def is_stopped(self) -> bool:
        """Whether it is held by SIGSTOP."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it has logged."""
        if self.log.exists():
            for line in self.log.read_text(errors="replace").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    yield {"event": line}


class Nursery:
    """Starts lives. Use it as `async with`; nothing of it is left afterwards."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self._directory = directory
        self._environment = environment
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting: deque[asyncio.Future[tuple[int, asyncio.Future[int]]]] = deque()
        self._ends: dict[int, asyncio.Future[int]] = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.worker_side", stdin=PIPE, stdout=PIPE, cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("AMIBUS_")}
            | self._environment,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def start(self, name: str, environment: dict[str, str], orders: Orders) -> Life:
        """Start a worker of that name."""
        assert self._process is not None
        assert self._process.stdin is not None
        log = self._directory / f"{name}.log"
        command = {"environment": {**environment, "AMIBUS_NAME": name}, "orders": asdict(orders), "log": str(log)}
        started: asyncio.Future[tuple[int, asyncio.Future[int]]] = asyncio.get_running_loop().create_future()
        self._starting.append(started)
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(DEADLINE_S):
            pid, ended = await started
        return Life(pid, name, orders, log, ended)

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            answer = json.loads(line)
            if "started" in answer:
                pid = answer["started"]
                ended = self._ends[pid] = asyncio.get_running_loop().create_future()
                starting = self._starting.popleft()
                if not starting.done():  # whoever started it may have been told to end meanwhile
                    starting.set_result((pid, ended))  # it may have ended before whoever waits hears of it
            else:
                self._ends.pop(answer["ended"]).set_result(answer["code"])
