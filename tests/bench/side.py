"""One side of a comparison: a process of its own, so that both have the same CPU; commands and answers are JSON
lines."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

DEADLINE_S: Final = 120.0
"""No step of a benchmark takes so long on any machine: what does hangs."""

ROOT: Final = Path(__file__).parents[2]
"""The checkout: its packages need not be installed."""

Message = dict[str, Any]


class Side:
    """A process that runs one of the `tests.bench` modules, asked by `ask`. Ended with the `async with`."""

    def __init__(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._process: Process | None = None
        self.name = module

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=self._environment, cwd=ROOT
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    @property
    def process(self) -> Process:
        """The running process."""
        assert self._process is not None
        return self._process

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ask(self, do: str, **arguments: Any) -> Message:
        """Give a command and wait for its answer."""
        self.tell(do, **arguments)
        return await self.answer()

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command; `answer` is to be awaited."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def answer(self) -> Message:
        """The next line that it says. Raises `RuntimeError` if it has ended instead."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {await self.process.wait()}; what it said is above")
        answer: Message = json.loads(line)
        return answer


def say(**message: Any) -> None:
    """Give an answer, from within the process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def obey(commands: dict[str, Callable[..., Awaitable[Message]]]) -> None:
    """Carry out commands, one after the other, until the standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        say(**await commands[command.pop("do")](**command))


def run(main: Callable[[], Awaitable[None]], loop: str) -> None:
    """Run a coroutine on uvloop or on asyncio's own loop, as `asyncio.run` does."""

    async def work() -> None:
        await main()

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(work())


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes an event loop of that name."""
    if loop == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop
