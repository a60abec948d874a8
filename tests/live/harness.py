"""The whole bus for a test: Redis, a real Asterisk, and the worker as the process that it is in production."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.lab import LabAsterisk
from tests.live.producer import Producer
from tests.live.tap import Tap
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
"""Of whatever ends as soon as it is so: a machine that is slow and busy takes its time."""

POLL_S = 0.02
LEASE_S = "2"
"""Short, so that whoever takes over from a killed worker need not wait long; a busy machine may lose a shorter one."""

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], what: str, *, deadline_s: float = DEADLINE_S) -> T:
    """The first answer of `look` that is true in a boolean sense. AssertionError if there is none by the deadline."""
    deadline = time.monotonic() + deadline_s
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s, but {found!r}"
        await asyncio.sleep(POLL_S)


class Worker:
    """One `amibus worker` process. Settings are those of the environment, by their lower-case names without AMIBUS_."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.server = settings["server"]
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("AMIBUS_")}
        self._environment |= {f"AMIBUS_{name.upper()}": value for name, value in settings.items()}
        self._directory = Path(tempfile.mkdtemp(prefix="amibus-live-worker-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return at once."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_dies_with_us(), sys.executable, "-m", "workers.cli", "worker"],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    async def exit_code(self) -> int:
        """Wait for the process to end by itself."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, DEADLINE_S)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process by a signal; its exit code."""
        self.send(number)
        return await self.exit_code()

    async def close(self) -> None:
        """End the process, if it still runs, and remove its log. AssertionError if it does not end, or not well, when
        asked to."""
        output, code = "", 0
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                code = await self.exit_code()
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = await self.exit_code()
            output = self.output
        shutil.rmtree(self._directory)
        assert code == 0, f"asked to stop, the worker ended with {code}: {output}"

    def check(self) -> None:
        """AssertionError, with the log, if the process has ended."""
        assert self._process is not None
        assert self._process.poll() is None, f"the worker ended with {self._process.returncode}: {self.output}"

    async def until(self, state: str, producer: Producer) -> None:
        """Wait until the heartbeat of this very process says so. AssertionError, with the log, if it ended instead."""

        async def look() -> bool:
            self.check()
            beat = await producer.heartbeat()
            return beat.get("state") == state and beat.get("pid") == str(self.pid)

        await eventually(look, f"worker {self.server} is {state}")

    @property
    def output(self) -> str:
        """All that it wrote, which is its log."""
        return (self._directory / "log").read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log lines."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class Site:
    """One Asterisk, and the Redis beside it."""

    asterisk: LabAsterisk
    redis: RedisServer

    def worker(self, server: str, **settings: str) -> Worker:
        """A worker for this Asterisk, with the two users of the production example; not started yet."""
        users = self.asterisk.users
        usual = {
            "redis": self.redis.url,
            "server": server,
            "ami": f"{self.asterisk.host}:{self.asterisk.port}",
            "ami_username": "amibus",
            "ami_secret": users["amibus"],
            "ami_events_username": "amibus-events",
            "ami_events_secret": users["amibus-events"],
            "lease_s": LEASE_S,
            "journal_dir": str(self.redis.directory / "journal"),
            "log_format": "json",
        }
        return Worker(usual | settings)

    @asynccontextmanager
    async def serving(self, server: str, **settings: str) -> AsyncIterator[tuple[Producer, Worker]]:
        """A worker of the test's own, connected, and a producer for it."""
        worker = self.worker(server, **settings)
        try:
            async with Producer(self.redis.url, server) as producer:
                worker.start()
                await worker.until("connected", producer)
                yield producer, worker
        finally:
            await worker.close()

    @asynccontextmanager
    async def tapped(self, server: str, **settings: str) -> AsyncIterator[tuple[Producer, Worker, Tap]]:
        """The same, with a tap that shows every byte which the worker writes to Asterisk."""
        with Tap(self.asterisk.host, self.asterisk.port) as tap:
            async with self.serving(server, ami=tap.address, **settings) as (producer, worker):
                yield producer, worker, tap


def _dies_with_us() -> list[str]:
    """A prefix that lets the kernel end the worker when the tests are killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []
