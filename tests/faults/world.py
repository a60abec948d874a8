"""One world: a Redis or Valkey, a simulated Asterisk, workers on one host or two, behind proxies."""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis.asyncio as aredis
from redis.exceptions import RedisError

from broker.keys import Keys
from tests.bench.side import Side
from tests.faults.history import History, Loss, Term, Write
from tests.faults.host import HOSTS, Host
from tests.faults.kill_points import Orders
from tests.faults.nursery import Life
from tests.faults.observer import Observer, connect
from tests.faults.producer import Producer, Wishes
from tests.faults.proxy import Proxy
from tests.faults.redis_side import ALONE, make_redis_side
from tests.faults.slot import Slot
from tests.servers import RedisServer
from tests.workers.worker_process import EVENTS_SECRET, SECRET, SERVER

LEASE_S: Final = 1.0
POLL_S: Final = 0.01
SETTLE_DEADLINE_S: Final = 60.0
"""After the last cure so much time at most may pass until one more of all that was queued has its fate."""

WAIT_DEADLINE_S: Final = 60.0
"""For what is to come: who waits in vain waits so long, however busy the machine is."""

JOURNAL_HELD: Final = "the journal was held by another process: it was killed"

NUDGE_S: Final = 1.0
"""So often Asterisk says something while the last calls are waited for: a real one is never silent."""

_FREE = (
    "local lease = redis.call('GET', KEYS[1]) "
    "if lease and cjson.decode(lease).pid == tonumber(ARGV[1]) then return redis.call('DEL', KEYS[1]) end return 0"
)
"""What the end of a lease does, for the lease of a process that is known to be dead: a test has no second to lose."""


FREE_S: Final = 5.0
"""So long that is tried."""


class AsteriskSide(Side):
    """The simulated Asterisk's process; what it was sent is in `journal`."""

    def __init__(self, journal: Path, seed: int) -> None:
        super().__init__("asterisk")
        self._command = [*self._command[:2], "tests.faults.asterisk_side", str(journal), str(seed)]
        self.journal = journal
        self.port = 0
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.port = (await self.answer())["port"]
        return self

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give a command and wait for its answer; one at a time."""
        async with self._asking:
            return await super().ask(do, **arguments)

    def written(self, since: int) -> tuple[list[Write], int]:
        """What has reached it since that byte of the journal, without the worker's own; and where the journal ends."""
        with self.journal.open("rb") as file:
            file.seek(since)
            data = file.read()
        writes = [Write(**json.loads(line)) for line in data.splitlines()]
        return [write for write in writes if not (write.action_id or "0-").startswith("0-")], since + len(data)


class World:
    """Use it as `async with`; nothing of it is left afterwards, unless `keep` is set: then its directory is."""

    def __init__(
        self, kind: str, seed: int, *, variant: str = "", layout: str = ALONE, small_disks: bool = False,
        clocks: bool = False,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.layout = layout
        """Of Redis: see `redis_side`."""
        self.seed = seed
        self.variant = variant
        self.keys = Keys(SERVER)
        self.keep = False
        self.settle_deadline_s = SETTLE_DEADLINE_S
        self.settings: dict[str, str] = {}
        """Of the workers, where they are not those of all worlds."""
        self.crashes: list[str] = []
        self.killed: list[Life] = []
        """Lives that ended by a SIGKILL which did not come from the test."""
        self.befell: Counter[str] = Counter()
        """What was done to it, counted by its effect, as far as no proxy counts it."""
        self._hosts_as = {"is_small": small_disks, "is_stepped": clocks}
        self.slots: list[Slot] = []
        self.is_clean = True
        """Nothing is left in it of a round, as it may be of one that has failed: another one would find it."""
        self._stack = AsyncExitStack()
        self.since = 0
        """Where this round begins in the journal of what Asterisk got."""
        self._clients: list[Any] = []
        self._rounds = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix=f"amibus-faults-{self.kind}-"))
            stack.callback(self._remove)
            self.notes = self.directory / "points"
            self.leases = self.directory / "leases"
            self.armed = self.directory / "armed"
            """Where this file is, kill points count whose orders wait for it."""
            self.redis = await stack.enter_async_context(make_redis_side(self.layout, self.kind, self.seed))
            self.asterisk = await stack.enter_async_context(AsteriskSide(self.directory / "writes", self.seed))
            self.ami_proxy = await stack.enter_async_context(Proxy(self.asterisk.port, self.seed + 2))
            self.hosts = [Host(self.directory, number, **self._hosts_as) for number in range(HOSTS)]
            for host in self.hosts:
                host.begin()
                stack.push_async_callback(self._end_host, host)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave nothing of it."""
        for slot in self.slots:
            slot.abandon()
        for client in self._clients:
            await client.aclose()
        await self._stack.aclose()

    async def _end_host(self, host: Host) -> None:
        await host.end(keep=self.keep)

    @property
    def server(self) -> RedisServer:
        """The Redis that takes writes."""
        return self.redis.server

    @property
    def redis_proxy(self) -> Proxy:
        """The worker's way to Redis."""
        return self.redis.redis_proxy

    @property
    def producer_proxy(self) -> Proxy:
        """The producer's."""
        return self.redis.producer_proxy

    @asynccontextmanager
    async def round(
        self, seed: int, workers: int = 1, hosts: int = 1, first: Orders | None = None
    ) -> AsyncIterator["Round"]:
        """An empty Redis, fresh host directories, and workers; they are ended with it. `first`: orders of the first."""
        self._rounds += 1
        self.is_clean = False
        self.crashes, self.killed = [], []
        for log in self.directory.glob("w*.log"):
            log.unlink()
        with self.server.client() as client:
            client.flushall()
            client.script_flush()
        _, self.since = self.asterisk.written(self.since)
        self.leases.write_text("")
        self.armed.unlink(missing_ok=True)
        for host in self.hosts:
            host.renew(self._rounds)
        self.slots = [Slot(self, number, self.hosts[number % hosts]) for number in range(workers)]
        async with Observer(self.redis.url, self.keys) as observer:
            running = Round(self, seed, observer)
            async with self._ending():
                for slot in self.slots:
                    slot.orders = (slot is self.slots[0] and first) or self.orders()
                    await slot.begin()
                    if slot is not self.slots[-1]:
                        await running.serving()  # the others stand by
                yield running
        self.is_clean = True

    @asynccontextmanager
    async def _ending(self) -> AsyncIterator[None]:
        """Afterwards nobody lives in the slots any more. What has gone wrong is told with what was heard of them."""
        try:
            yield
        except BaseException as error:
            for words in self.crashes[-3:]:
                error.add_note(words)
            for slot in self.slots:
                error.add_note(f"{slot.name} said last: {slot.last_words}")
                slot.abandon()
            raise
        finally:
            await self.end_slots()

    async def end_slots(self) -> None:
        """End the workers, one after the other, each whatever becomes of those before it."""
        async with AsyncExitStack() as stack:
            for slot in reversed(self.slots):
                stack.push_async_callback(slot.end)

    def orders(self, **changes: Any) -> Orders:
        """Orders for a life in this world."""
        return replace(Orders(variant=self.variant, notes=str(self.notes), leases=str(self.leases)), **changes)

    def unasked(self) -> Iterator[str]:
        """Ends by SIGKILL, in words, that nobody had ordered: not the test, no kill point, and no worker that has taken
        over on the same host and found the journal held by it."""
        lines = [line for slot in self.slots for line in slot.present.lines() if line["event"] == JOURNAL_HELD]
        for life in self.killed:
            at_its_point = life.orders.point and life.orders.how == "kill"
            if not at_its_point and all(line["pid"] != life.pid for line in lines):
                yield f"{life.name} (pid {life.pid}) was killed, and nobody says why"

    def points(self) -> list[str]:
        """The kill points seen so far."""
        return list(self._noted("seen"))

    def ended(self) -> "Counter[str]":
        """How many lives ended (or were stopped) at which point so far."""
        return self._noted("ended")

    def _noted(self, what: str) -> "Counter[str]":
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return Counter(line.partition(" ")[2] for line in lines if line.startswith(f"{what} "))

    def terms(self) -> list[Term]:
        """As they began in this round, in the order in which their workers heard of it. Where the journal was not
        sealed it never came to anything: the worker was lost, or found the epoch to be of the past."""
        taken: list[tuple[str, Term]] = []
        sealed: set[tuple[str, int]] = set()
        offset_s = time.time() - time.monotonic()
        for line in self.leases.read_text().splitlines():
            what, epoch, pid, host, at, asked_at = line.split()
            if what == "sealed":
                sealed.add((pid, int(epoch)))
            else:
                taken.append((pid, Term(int(epoch), host, float(at) + offset_s, float(asked_at) + offset_s)))
        return [term for pid, term in taken if (pid, term.epoch) in sealed]

    def environment(self, host: Host) -> dict[str, str]:
        """The settings of a worker on that host."""
        settings = {
            "redis": self.redis.worker_url, "server": SERVER,
            "ami": f"127.0.0.1:{self.ami_proxy.port}", "ami_username": host.user, "ami_secret": SECRET,
            "ami_events_username": "amibus-events", "ami_events_secret": EVENTS_SECRET, "lease_s": f"{LEASE_S:g}",
            "drain_s": "5", "rate_calls": "0", "record_read_s": "3600", "results_length": "1000000",
            "events_length": "1000000", "journal_dir": str(host.journal_directory), "allow": "function:DB",
            "log_format": "json", "log_level": "info",
        }  # fmt: skip
        return {f"AMIBUS_{name.upper()}": value for name, value in (settings | self.settings).items()}

    def client(self, url: str) -> "aredis.Redis":
        """A client, closed with the world."""
        client = connect(url)
        self._clients.append(client)
        return client

    async def heal(self) -> None:
        """Cure everything that can be cured from outside."""
        for proxy in (self.redis_proxy, self.producer_proxy, self.ami_proxy):
            await proxy.heal()
        await self.asterisk.ask("fault", name="clear")
        for host in self.hosts:
            host.make_room()
        for slot in self.slots:
            if slot.life is not None:
                slot.life.send(signal.SIGCONT)

    async def free_lease(self, pid: int) -> None:
        """End the lease of a dead process, if it has one and Redis does so at once: otherwise it ends by itself."""
        with contextlib.suppress(Exception):  # the next life must not depend on it
            async with asyncio.timeout(FREE_S):
                client: Any = connect(self.redis.url)
                async with client:
                    await client.eval(_FREE, 1, self.keys.lease, pid)

    def _remove(self) -> None:
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)


class Round:
    """One run of workers from an empty Redis to a settled one."""

    def __init__(self, world: World, seed: int, observer: Observer) -> None:
        self.world = world
        self.observer = observer
        through, direct = world.client(world.redis.producer_url), world.client(world.redis.url)
        self.producer = Producer(world.keys, through, direct, Wishes(seed, f"t{seed:x}"))
        self.losses: list[Loss] = []
        self.held: list[tuple[float, float]] = []
        """When the network kept what was written to Asterisk."""
        self.is_orderly = False
        """Nothing that is done to it may cost any knowledge."""
        self._served = ""

    async def serving(self) -> str:
        """Wait until a worker serves that is alive; its name."""

        async def somebody() -> str:
            name, pid = await self.observer.serving()
            return name if any(slot.is_up and slot.present.pid == pid for slot in self.world.slots) else ""

        self._served = str(await wait_for("a worker serves", somebody))
        return self._served

    @property
    def server(self) -> Slot:
        """The slot of the worker that serves, or served last."""
        return next((slot for slot in self.world.slots if slot.name == self._served), self.world.slots[0])

    def kill_next(self, orders: Orders) -> None:
        """Kill the worker that serves; the next life in its place has these orders."""
        slot = self.server
        slot.orders = orders
        slot.present.is_condemned = True
        slot.present.send(signal.SIGKILL)

    async def command(self, *words: str) -> None:
        """A command to Redis, as an operator would give it; whether it answers does not matter."""
        with contextlib.suppress(RedisError, OSError):
            client: Any = connect(self.world.redis.url)
            async with client:
                await client.execute_command(*words)

    async def flush(self) -> None:
        """FLUSHALL, certainly."""

        async def is_done() -> bool:
            return bool(await self.observer.redis.flushall())

        await wait_for("Redis is emptied", is_done)
        self.losses.append(Loss(0.0, time.time(), "emptied"))

    async def settled(self) -> None:
        """Wait until the lanes are empty, the calls over, and no record says that an action is under way. The checker
        has the word on what is not."""
        nudged_at = time.monotonic()
        fewest = sys.maxsize

        async def is_less() -> bool:
            nonlocal nudged_at, fewest
            observer, keys = self.observer, self.world.keys
            queued, legs = await observer.backlog(), await observer.redis.hlen(keys.legs)
            left = queued + legs or int(await observer.is_any_begun())
            if not queued and legs and time.monotonic() - nudged_at > NUDGE_S:
                # What no event has brought, a call that is known not to be alive, is written with the next event.
                nudged_at = time.monotonic()
                await self.world.asterisk.ask("tell", event="Reload", privilege="system", headers=[["Module", "x"]])
            was, fewest = fewest, min(fewest, left)
            return left < was

        for is_last in (len(self.world.slots) == 1, True):
            with contextlib.suppress(TimeoutError):
                while fewest:
                    await wait_for("less is left", is_less, self.world.settle_deadline_s)
            if not fewest or is_last:
                return
            # On a machine that is too busy for the short life of a lease workers take it from each other without end.
            self.world.befell["rounds left to one worker to settle"] += 1
            for slot in self.world.slots:
                if slot is not self.server:
                    await slot.end()

    async def finish(self) -> History:
        """Cure everything, wait until all is settled, end the workers: all that was seen."""
        world = self.world
        await world.heal()
        await self.settled()
        await world.end_slots()
        return await self._history()

    async def _history(self) -> History:
        world = self.world
        history = History(
            entries=self.producer.entries, losses=self.losses, held=self.held, is_orderly=self.is_orderly,
            crashes=[*world.crashes, *world.unasked()],
        )  # fmt: skip
        history.writes, _ = world.asterisk.written(world.since)
        history.terms = world.terms()
        owner = world.keys.root.rstrip(":")
        history.noted = {host.user: set(host.written(owner)) for host in world.hosts}
        await self.observer.gather(history)
        return history


async def wait_for(what: str, condition: Callable[[], Awaitable[Any]], deadline_s: float = WAIT_DEADLINE_S) -> Any:
    """Wait until a condition is true; what it gave. Redis may be away meanwhile."""
    end = time.monotonic() + deadline_s
    while True:
        with contextlib.suppress(RedisError, OSError):
            value = await condition()
            if value:
                return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(POLL_S)
