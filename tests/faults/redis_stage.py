"""A worker process, its Redis and a simulated Asterisk, and what must hold on them whatever befalls Redis."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from tests.servers import RedisServer
from tests.workers.worker_process import DEADLINE_S, USERS, Desk, WorkerProcess, eventually, make_settings
from workers.simulated import SimulatedAsterisk

FLAT_MB = 16.0
"""The worker may grow by so much while a fault lasts: it starts at some 50 MB, and what leaks shows at once."""


CHANGES = ("Setvar", "Originate")
"""What must not be written twice; a read-only action may."""


class RedisStage:
    """What a test needs: `worker`, `asterisk`, `desk`, `server`; and `check` for the end."""

    def __init__(self, server: RedisServer, asterisk: SimulatedAsterisk, worker: WorkerProcess, desk: Desk) -> None:
        self.server = server
        self.asterisk = asterisk
        self.worker = worker
        self.desk = desk
        self._grown_from_mb = resident_mb(worker.pid)

    async def queue(self, *action_ids: str) -> None:
        """Put a Setvar on the queue for each; where the reply to that is lost, again. With each goes an event."""
        for action_id in action_ids:
            self.asterisk.tell("Reload", "system", ("Module", action_id))
            await self.met(lambda: self.desk.add("Setvar", action_id, Variable="x", Value=action_id))  # noqa: B023

    async def hold(self, *action_ids: str) -> None:
        """Put these on the queue, the first of them written to Asterisk, which does not answer until `let_go`."""
        self.asterisk.faults.freeze()
        await self.queue(*action_ids)
        await self.desk.reaches(action_ids[0], state="sending")

    def let_go(self) -> None:
        """Asterisk answers again."""
        self.asterisk.faults.resume()

    async def works_again(self, action_id: str) -> float:
        """Queue an action as soon as Redis takes one, and wait until it is done; how many seconds it took."""
        began = time.monotonic()
        await self.queue(action_id)
        await self.all_done(action_id)
        return time.monotonic() - began

    async def all_done(self, *action_ids: str) -> None:
        """Wait until each has been done."""
        for action_id in action_ids:
            await self.met(lambda: self._is_done(action_id))  # noqa: B023 - awaited before the next turn

    async def met(self, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
        """Wait for a condition, which is not met while Redis does not answer."""

        async def answer() -> Any:
            with contextlib.suppress(RedisError, OSError):
                return await condition()
            return None

        try:
            return await eventually(answer, deadline_s)
        except TimeoutError as error:
            error.add_note(f"the worker said: {self.worker.text[-4000:]}")
            raise

    async def repeatedly(self, fault: Callable[[Any], Any], for_s: float = 2.5) -> None:
        """Let the fault happen again and again."""
        end = time.monotonic() + for_s
        with self.server.client() as client:
            while time.monotonic() < end:
                fault(client)
                await asyncio.sleep(0.05)

    def changes(self, *action_ids: str) -> list[str]:
        """What was written to Asterisk of these, or of all that changes something, in order."""
        written = [each.action_id for each in self.asterisk.written if each.action in CHANGES and each.action_id]
        return [each for each in written if not action_ids or each in action_ids]

    async def check(self, *, errors: bool = True) -> None:
        """Nothing was written twice, no event is missing or doubled, no second has two lines of error or warning.

        But for the fates of actions: each has its own.

        And the worker has not grown. `errors` false: and no error has been said at all.
        """
        numbers = [(event.epoch, event.seq) for event in await self.desk.events()]
        gaps = [pair for pair in pairwise(numbers) if pair[1][0] == pair[0][0] and pair[1][1] != pair[0][1] + 1]
        assert numbers
        assert not gaps, gaps
        twice = [each for each, count in Counter(self.changes()).items() if count > 1]
        assert not twice, twice
        said = [line for line in self.worker.log if line.get("level") in ("error", "critical")]
        assert errors or not said, said
        assert not self.worker.lines("the worker ended by an error that nobody expected")
        loud = {line["event"] for line in self.worker.log if line.get("level") in ("error", "warning")}
        for event in loud - {"settled"}:
            assert_seldom(self.worker.lines(event))
        assert_seldom(said)
        grown_mb = resident_mb(self.worker.pid) - self._grown_from_mb
        assert grown_mb < FLAT_MB, f"the worker has grown by {grown_mb:.1f} MB"

    async def _is_done(self, action_id: str) -> bool:
        return (await self.desk.record(action_id)).get("state") == "done"


def resident_mb(pid: int) -> float:
    """The memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def assert_seldom(lines: list[dict[str, Any]]) -> None:
    """No more of these lines than seconds that they span."""
    at = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines]
    if at:
        assert len(at) <= at[-1] - at[0] + 1.05, Counter(line["event"] for line in lines)


@contextlib.asynccontextmanager
async def redis_stage(server: RedisServer, **settings: Any) -> AsyncIterator[RedisStage]:
    """Everything, connected, and warmed up by some work."""
    async with (
        SimulatedAsterisk(users=USERS, seed=7) as asterisk,
        WorkerProcess(make_settings(server.url, asterisk, name="one", **settings)) as worker,
        Desk(server.url) as desk,
    ):
        await worker.connected()
        stage = RedisStage(server, asterisk, worker, desk)
        warm = [f"warm-{number}" for number in range(200)]
        await stage.queue(*warm)
        await stage.all_done(*warm)
        stage._grown_from_mb = resident_mb(worker.pid)
        yield stage
