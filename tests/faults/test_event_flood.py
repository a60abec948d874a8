"""A flood of events while Redis stands still, and a subscriber that never reads: who is slow harms nobody else."""

import asyncio
import contextlib
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hiredis
import pytest

from broker.codec import BusEvent, decode_message
from broker.keys import Keys
from tests.servers import KINDS, RedisServer, need
from tests.workers.worker_process import SERVER, USERS, Desk, WorkerProcess, eventually, make_settings
from workers.simulated import SimulatedAsterisk
from workers.spool import MAX_UNWRITTEN_BYTES

MEBIBYTE = 1024 * 1024
EVENTS = 60_000
"""About 25 MiB of AMI text: some times what the kernel takes for a client that does not read."""

EVENTS_PER_S = 10_000
SPOOLED_PER_S = 5_000
"""Less, where none may be dropped: on a busy machine the worker gets too little of the processor for more."""

BUFFER_MB = 4
BASE_BYTES = 8 * MEBIBYTE
"""What a worker under load takes beside its event buffer: parsing, one batch on its way, what was freed and is kept."""


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3, ring_s=0.01) as simulated:
        yield simulated


@contextlib.asynccontextmanager
async def standing_still(server: RedisServer) -> AsyncIterator[None]:
    """Redis answers nothing meanwhile, and keeps its connections."""
    server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send(signal.SIGCONT)


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


class Flood:
    """So many events at a chosen rate, and the largest that the worker was meanwhile."""

    def __init__(self, asterisk: SimulatedAsterisk, pid: int, per_s: int = EVENTS_PER_S) -> None:
        self._per_s = per_s
        self._asterisk = asterisk
        self._pid = pid
        self.sent = 0
        self.most_bytes = 0

    async def pour(self, count: int) -> None:
        """Return when they are all with the worker, or in the kernel."""
        emitted, traffic = self._asterisk.traffic.emitted, self._asterisk.traffic
        traffic.rate = self._per_s
        await eventually(lambda: self._look() and traffic.emitted - emitted >= count)
        traffic.rate = 0
        self.sent += traffic.emitted - emitted

    def _look(self) -> bool:
        self.most_bytes = max(self.most_bytes, resident_bytes(self._pid))
        return True


async def stream(desk: Desk) -> list[BusEvent]:
    """All events, once nothing waits for Redis any more. The heartbeat that is there may be from before Redis stood
    still, and the next one too, written down late: those after it tell."""
    beats: list[dict[str, str]] = []

    async def is_drained() -> bool:
        beat = await desk.heartbeat()
        if beat and (not beats or beat["heartbeat_at"] != beats[-1]["heartbeat_at"]):
            beats.append(beat)
        told = [(each["events_queued"], each["state"], each["events_in"]) for each in beats[2:]]
        return len(told) > 1 and told[-1] == told[-2] == ("0", "connected", told[-1][-1])

    await eventually(is_drained)
    return await desk.events()


def numbered_without_a_hole(events: list[BusEvent], first: int = 1) -> bool:
    return [event.seq for event in events] == list(range(first, first + len(events)))


def overflows(events: list[BusEvent]) -> list[BusEvent]:
    return [event for event in events if event.name == "BusGap" and event.headers["reason"] == "overflow"]


def from_asterisk(events: list[BusEvent]) -> list[BusEvent]:
    return [event for event in events if not event.name.startswith("Bus")]


def in_order(events: list[BusEvent]) -> bool:
    """By the numbers that the simulated Asterisk gives its background channels."""
    numbers = [
        int(event.headers["Uniqueid"].rpartition(".")[2])
        for event in events
        if event.name == "Newchannel" and "@background" in event.headers["Channel"]
    ]
    return numbers == sorted(numbers) and len(numbers) > 100


async def hang_up(asterisk: SimulatedAsterisk, *action_ids: str) -> None:
    for action_id in action_ids:
        [leg] = [leg for leg in asterisk.switch.legs if leg.uniqueid == f"amibus-{SERVER}-{action_id}"]
        leg.call.hang_up(leg, 16)


async def place_calls(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    """Ten calls that are up, and one that rings: it will be answered when Redis stands still."""
    calls = [f"c{number}" for number in range(10)]
    for call in calls:
        await desk.originate(call, Data="600")
    for call in calls:
        await desk.reaches(call, call="up", state="done")
    asterisk.switch.ring_s = 1.0
    await desk.originate("late", "ring", Data="600")
    await desk.reaches("late", call="dialing", state="sent")


async def test_while_redis_stands_still_memory_is_bounded_and_what_is_dropped_is_counted(
    own_redis: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    settings = make_settings(own_redis.url, asterisk, event_buffer_mb=BUFFER_MB, rate_calls=0)
    async with WorkerProcess(settings) as worker, Desk(own_redis.url) as desk:
        await worker.connected()
        await place_calls(desk, asterisk)
        flood = Flood(asterisk, worker.pid)
        before = resident_bytes(worker.pid)
        async with standing_still(own_redis):
            await flood.pour(EVENTS // 2)
            await hang_up(asterisk, *[f"c{number}" for number in range(10)])
            await flood.pour(EVENTS // 2)
        events = await stream(desk)
        grown = flood.most_bytes - before
        print(f"{own_redis.kind}: grew by {grown / MEBIBYTE:.1f} MiB, {flood.sent} events, stalls {asterisk.stalls}")
        assert asterisk.stalls == 0, "the AMI socket was not read all the time"
        assert grown < BUFFER_MB * MEBIBYTE + BASE_BYTES
        gaps = overflows(events)
        dropped = sum(int(gap.headers["dropped"]) for gap in gaps)
        beat = await desk.heartbeat()
        assert dropped > EVENTS // 3
        assert int(beat["events_dropped"]) == dropped
        assert int(beat["events_in"]) == len(from_asterisk(events)) + dropped
        assert numbered_without_a_hole(events)
        assert in_order(events)
        mine = [event for event in from_asterisk(events) if event.action_ids]
        hangups = [event.action_ids[0] for event in mine if event.name == "Hangup"]
        assert sorted(set(hangups)) == [f"c{number}" for number in range(10)], "the last to be dropped"
        assert [event.action_ids for event in mine if event.name == "OriginateResponse"][-1] == ["late"]
        for number in range(10):
            record = await desk.record(f"c{number}")
            assert (record["call"], record["cause"]) == ("ended", "16")
        late = await desk.settled("late")
        assert (late["state"], late["call"]) == ("done", "up")
        legs = await desk.redis.hgetall(desk.keys.legs)
        assert set(legs.values()) == {b"late"}


async def test_with_a_spool_nothing_is_dropped_while_redis_stands_still(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, tmp_path: Path
) -> None:
    base = tmp_path / "spool"
    settings = make_settings(
        own_redis.url, asterisk, event_buffer_mb=BUFFER_MB, event_spool_dir=str(base), rate_calls=0
    )
    async with WorkerProcess(settings) as worker, Desk(own_redis.url) as desk:
        await worker.connected()
        await place_calls(desk, asterisk)
        flood = Flood(asterisk, worker.pid, SPOOLED_PER_S)
        before = resident_bytes(worker.pid)
        async with standing_still(own_redis):
            await flood.pour(EVENTS // 2)
            await hang_up(asterisk, *[f"c{number}" for number in range(10)])
            await flood.pour(EVENTS // 2)
        events = await stream(desk)
        grown = flood.most_bytes - before
        print(f"{own_redis.kind}: grew by {grown / MEBIBYTE:.1f} MiB, {flood.sent} events, stalls {asterisk.stalls}")
        assert asterisk.stalls == 0, "the AMI socket was not read all the time"
        assert grown < BUFFER_MB * MEBIBYTE + MAX_UNWRITTEN_BYTES + BASE_BYTES
        assert overflows(events) == []
        assert int((await desk.heartbeat())["events_in"]) == len(from_asterisk(events)) >= EVENTS
        assert numbered_without_a_hole(events)
        assert in_order(events)
        for number in range(10):
            assert (await desk.record(f"c{number}"))["call"] == "ended"
        assert (await desk.settled("late"))["state"] == "done"
        await eventually(lambda: not chunks(base))


async def test_a_spool_does_not_outlive_its_worker_and_what_was_lost_with_it_is_told(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, tmp_path: Path
) -> None:
    settings = make_settings(own_redis.url, asterisk, event_buffer_mb=0.5, event_spool_dir=str(tmp_path))
    async with WorkerProcess(settings) as worker, Desk(own_redis.url) as desk:
        await worker.connected()
        before = await stream(desk)
        async with standing_still(own_redis):
            await Flood(asterisk, worker.pid).pour(EVENTS // 6)
            await eventually(lambda: chunks(tmp_path))
            await worker.kill()
            assert chunks(tmp_path)
        await worker.start()
        await worker.said("events that a dead worker had spooled are lost: BusGap says since when")
        assert not chunks(tmp_path)
        # Not `connected`: the heartbeat of the dead one may still say so.
        gaps = await eventually(lambda: gaps_of_starts(desk, 2))
        assert float(gaps[-1].headers["since"]) >= float(gaps[0].headers["until"])
        events = await desk.events()
        # What had been in Redis' socket when the worker died may have come through.
        assert [event.seq for event in events if event.epoch == before[0].epoch][: len(before)] == [
            event.seq for event in before
        ]
        assert events[-1].epoch == before[0].epoch + 1


def chunks(base: Path) -> list[Path]:
    """The files of spools."""
    return list(base.glob("*/*"))


async def gaps_of_starts(desk: Desk, count: int) -> list[BusEvent]:
    gaps = [gap for gap in await desk.events("BusGap") if gap.headers["reason"] == "worker-start"]
    return gaps if len(gaps) == count else []


class Subscriber:
    """A pattern subscription on a bare socket, so that it is up to the test whether anybody reads it."""

    def __init__(self, server: RedisServer, receive_bytes: int = 4096) -> None:
        self._socket = socket.socket()
        # What it does not read is to wait in Redis, not in the kernel.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.connect(("127.0.0.1", server.port))
        self._socket.sendall(b"PSUBSCRIBE %s\r\n" % Keys(SERVER).event("*").encode())
        self._socket.setblocking(False)
        self._reader = hiredis.Reader()
        self._heard: list[bytes] = []
        self.is_cut = False
        self.heard_at = 0.0

    async def read(self) -> None:
        """Read until it is cut."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self._socket, 65536):
                self._reader.feed(data)
                while (reply := self._reader.gets()) is not False:
                    if reply[0] == b"pmessage":
                        self._heard.append(reply[3])
                        self.heard_at = time.monotonic()
        self.is_cut = True

    def __len__(self) -> int:
        return len(self._heard)

    def events(self) -> list[BusEvent]:
        """What it has heard."""
        found = [decode_message(data) for data in self._heard]
        return [event for event in found if isinstance(event, BusEvent)]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def subscribe(own_redis: RedisServer) -> Iterator[Callable[..., Subscriber]]:
    made: list[Subscriber] = []

    def subscribe(receive_bytes: int = 4096) -> Subscriber:
        made.append(Subscriber(own_redis, receive_bytes))
        return made[-1]

    yield subscribe
    for each in made:
        each.close()


async def test_a_subscriber_that_never_reads_is_cut_and_nobody_else_notices(
    own_redis: RedisServer, asterisk: SimulatedAsterisk, subscribe: Callable[..., Subscriber]
) -> None:
    with own_redis.client() as client:
        # As by default, but smaller: 32 MiB would take minutes.
        client.config_set("client-output-buffer-limit", "pubsub 4mb 2mb 60")
    async with WorkerProcess(make_settings(own_redis.url, asterisk)) as worker, Desk(own_redis.url) as desk:
        await worker.connected()
        quick = subscribe(4 * MEBIBYTE)
        reading = asyncio.create_task(quick.read())
        flood = Flood(asterisk, worker.pid)

        async def lag_s(count: int) -> float:
            """How long after the flood the quick subscriber has all of it."""
            heard, sent = len(quick), flood.sent
            await flood.pour(count)
            ended_at = time.monotonic()
            await eventually(lambda: len(quick) - heard >= flood.sent - sent)
            return max(0.0, quick.heard_at - ended_at)

        alone_s = await lag_s(EVENTS // 4)
        slow = subscribe()
        await eventually(lambda: subscriptions(desk, 2))
        beside_s = await lag_s(EVENTS)
        print(f"{own_redis.kind}: lag {alone_s:.3f} s alone, {beside_s:.3f} s beside one that does not read")
        await eventually(lambda: subscriptions(desk, 1))
        assert asterisk.stalls == 0
        assert int((await desk.heartbeat())["events_dropped"]) == 0
        assert own_redis.log().count("overcoming of output buffer limits") == 1

        await slow.read()
        missed_from = slow.events()[-1].seq + 1
        caught_up = [event for event in await stream(desk) if event.seq >= missed_from]
        assert numbered_without_a_hole(caught_up, missed_from)
        assert len(caught_up) > EVENTS // 4, "it had been cut in the midst of it"
        heard_from = quick.events()[0].seq
        await eventually(lambda: heard_from + len(quick) > caught_up[-1].seq)
        assert numbered_without_a_hole(quick.events(), heard_from)
        assert not quick.is_cut
        reading.cancel()
        await asyncio.wait([reading])


@pytest.fixture(params=[("redis",), ("valkey", "--min-string-size-avoid-copy-reply", "1073741824")], ids=KINDS)
def counting_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that counts large messages, too, against a subscriber's limit (see deploy/redis.conf)."""
    need(request.param[0])
    server = RedisServer(*request.param)
    server.start()
    yield server
    server.stop()


async def test_a_subscriber_that_does_not_read_large_events_is_cut_as_well(
    counting_redis: RedisServer, asterisk: SimulatedAsterisk
) -> None:
    with counting_redis.client() as client:
        client.config_set("client-output-buffer-limit", "pubsub 4mb 2mb 60")
    settings = make_settings(counting_redis.url, asterisk)
    async with WorkerProcess(settings) as worker, Desk(counting_redis.url) as desk:
        await worker.connected()
        with contextlib.closing(Subscriber(counting_redis)):
            await eventually(lambda: subscriptions(desk, 1))
            for number in range(600):
                asterisk.tell("VarSet", "dialplan", ("Variable", number), ("Value", "x" * 20_000))
                await asyncio.sleep(0)
            await eventually(lambda: subscriptions(desk, 0))
            await eventually(lambda: all_there(desk, 600))


async def all_there(desk: Desk, count: int) -> bool:
    """Whether so many VarSets are in the stream: a subscriber may be cut while they still come."""
    return len([event for event in await stream(desk) if event.name == "VarSet"]) == count


async def subscriptions(desk: Desk, count: int) -> bool:
    """Whether so many clients have a pattern subscription."""
    clients = await desk.redis.client_list(_type="pubsub")
    return len(clients) == count
