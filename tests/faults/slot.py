"""A place on a host where one worker lives after the other, as a service manager would have it."""

import asyncio
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tests.faults.host import Host
from tests.faults.kill_points import Orders
from tests.faults.nursery import Life
from tests.faults.tasks import AGAIN_S

if TYPE_CHECKING:
    from tests.faults.world import World

UNUSABLE: Final = 78
"""How a worker ends that only an operator can help."""

TOLD_TWICE: Final = "second signal: ending at once"

RESTART_S: Final = 0.2
"""A service manager waits before it starts such a one again."""

LAST_LINES: Final = 5
"""So much of a log shows what a worker was about."""


class Slot:
    """A place for one worker after the other: same host directory, a new life whenever the last has ended."""

    def __init__(self, world: "World", number: int, host: Host) -> None:
        self.name = f"w{number}"
        self.host = host
        self.orders = Orders()
        """Of the next life; those after it live without."""
        self.life: Life | None = None
        self.lives = 0
        self.kills = 0
        self.is_quick = True
        """The lease of the dead is freed at once."""
        self._world = world
        self._keeping: asyncio.Task[None] | None = None
        self._birth = asyncio.Lock()

    async def begin(self) -> None:
        """Start the first life, and keep starting the next."""
        await self._live()
        self._keeping = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def end(self) -> None:
        """Let nobody live here any more: the last one is asked to end, and must do so in good order. One that does not
        is killed, and told as a crash: the next round must not find it."""
        await self._end_keeping()
        life = self.life
        if life is None or life.is_over:
            return
        try:
            self._judge(life, await life.terminate())
        except TimeoutError:
            self._world.crashes.append(f"{life.name} (pid {life.pid}) was asked to end, and did not: {self.last_words}")
            await life.kill()

    def abandon(self) -> None:
        """Kill whoever lives here, and let nobody come after."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self.life is not None:
            self.life.is_condemned = True
            self.life.send(signal.SIGKILL)

    @property
    def present(self) -> Life:
        """The life that is lived, or was last."""
        assert self.life is not None
        return self.life

    @property
    def is_up(self) -> bool:
        """Whether a worker lives here, and is not stopped."""
        return self.life is not None and not self.life.is_over and not self.life.is_stopped

    @property
    def last_words(self) -> list[dict[str, Any]]:
        """The end of its log."""
        return [] if self.life is None else list(self.life.lines())[-LAST_LINES:]

    async def _end_keeping(self) -> None:
        if self._keeping is None:
            return
        while not self._keeping.done():  # up to Python 3.11 redis-py may swallow a cancellation
            async with self._birth:  # in the middle of it nobody would know of the child
                self._keeping.cancel()
            await asyncio.wait([self._keeping], timeout=AGAIN_S)
        (error,) = await asyncio.gather(self._keeping, return_exceptions=True)
        if isinstance(error, Exception):
            self._world.crashes.append(f"nobody could live at {self.name} any more: {error!r}")

    async def _live(self) -> None:
        orders, self.orders = (
            self.orders,
            replace(self.orders, point="", visit=1, how="kill", armed_by="", loop="uvloop"),
        )
        self.life = await self.host.start(self.name, self._world.environment(self.host), orders)
        self.lives += 1

    async def _keep(self) -> None:
        while True:
            life = self.present
            code = await asyncio.shield(life.ended)
            self._judge(life, code)
            if code == UNUSABLE:
                await asyncio.sleep(RESTART_S)
            if self.is_quick:
                await self._world.free_lease(life.pid)
            async with self._birth:
                await self._live()

    def _judge(self, life: Life, code: int) -> None:
        self.kills += code == -signal.SIGKILL
        if code == -signal.SIGKILL and not life.is_condemned:
            self._world.killed.append(life)
            return  # by whom, `unasked` tells in the end
        if code == -signal.SIGTERM:
            return  # so early that it had not begun to listen to signals
        if code == UNUSABLE and self.host.was_full and any("is full" in line.get("error", "") for line in life.lines()):
            return  # there was no room for the journal, and it said so
        if code == 1 and any(line["event"] == TOLD_TWICE for line in life.lines()):
            return  # by a fault, and then by the round's end
        if code != 0 and code != -signal.SIGKILL:
            self._world.crashes.append(f"{life.name} (pid {life.pid}) ended with {code}: {self.last_words}")
