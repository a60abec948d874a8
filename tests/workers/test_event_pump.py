"""Events out: order, attribution, bounded memory, and what is said of those that had to be dropped."""

import asyncio
import shutil
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from broker.ami import Event, Headers
from broker.codec import BusEvent, decode_message
from tests.bus_side import until
from tests.servers import RedisServer
from workers.calls import Calls
from workers.clock import ServerClock
from workers.config import Settings
from workers.event_buffer import MAX_BATCH_BYTES, MAX_EVENTS
from workers.event_pump import EventPump
from workers.follows import Follows
from workers.lease import Lease, LeaseLost
from workers.redis_client import connect


def event(name: str, *pairs: tuple[str, str], **headers: str) -> Event:
    return Event(Headers([("Event", name), *pairs, *headers.items()]))


class Rig:
    """A pump with all that it needs, on a real Redis."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.redis: Any = connect(url)
        self.settings = Settings(redis=url, server="pbx1", name="w1", **settings)
        self.keys = self.settings.keys
        clock = ServerClock()
        self.lease = Lease(self.redis, self.settings, clock)
        self.calls = Calls(clock.now, 3_600_000, on_truth=lambda *_: None, on_note=lambda _: None)
        self.now = 7.0
        self.gaps: list[int] = []
        """What waited for Redis when it was seen that consumers have missed events."""
        self.follows = Follows(clock.now, self.follow_ended)
        self.task: asyncio.Task[None] | None = None

    def follow_ended(self, target: str, reason: str) -> None:
        self.pump.announce_headers("BusFollowEnded", Headers([("reason", reason)]), followed=[target])

    async def open(self) -> "Rig":
        await self.lease.acquire()
        self.pump = self.make_pump()
        return self

    def make_pump(self) -> EventPump:
        """One for the lease's present epoch."""
        return EventPump(
            self.redis, self.settings, self.lease, self.calls, self.follows, lambda: self.now, "PUBLISH",
            on_gap=lambda: self.gaps.append(self.pump.queued),
        )  # fmt: skip

    def run(self) -> None:
        self.task = asyncio.create_task(self.pump.run())

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        self.pump.close()
        await self.redis.aclose()

    async def out(self) -> list[BusEvent]:
        """All that is in the stream, once the pump has nothing left."""
        await until(lambda: not self.pump.queued)
        entries: Any = await Redis.xrange(self.redis, self.keys.events)
        events = [decode_message(fields[b"data"]) for _, fields in entries]
        for (_, fields), read in zip(entries, events, strict=True):
            assert isinstance(read, BusEvent)
            assert fields[b"event"].decode() == read.name
        return [read for read in events if isinstance(read, BusEvent)]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Callable[..., Any]]:
    rigs: list[Rig] = []

    async def make(**settings: Any) -> Rig:
        rigs.append(Rig(redis_url, **settings))
        return await rigs[-1].open()

    yield make
    for rig in rigs:
        await rig.close()


def numbered(first: int, last: int) -> list[Event]:
    return [event("Newexten", Number=str(number)) for number in range(first, last)]


async def test_events_go_out_in_order_and_numbered(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    for each in numbered(0, 3 * MAX_EVENTS + 7):
        rig.pump.offer(each)
    out = await rig.out()
    assert [read.headers.get("Number") for read in out] == [str(number) for number in range(3 * MAX_EVENTS + 7)]
    assert [read.seq for read in out] == list(range(1, 3 * MAX_EVENTS + 8))
    assert {read.epoch for read in out} == {rig.lease.epoch}
    assert {read.server for read in out} == {"pbx1"}
    assert rig.pump.events_in == 3 * MAX_EVENTS + 7


async def test_big_events_go_out_in_batches_of_a_bounded_size(make: Callable[..., Any]) -> None:
    rig = await make()
    sizes: list[int] = []
    publish = rig.pump._publish

    async def counted(*args: Any) -> Any:
        sizes.append(len(args[-1]) - 3)  # the array's header
        return await publish(*args)

    rig.pump._publish = counted
    for number in range(20):
        rig.pump.offer(event("VarSet", Number=str(number), Value="x" * (MAX_BATCH_BYTES // 4)))
    rig.pump.offer(event("VarSet", Number="20", Value="x" * (2 * MAX_BATCH_BYTES)))
    rig.run()
    out = await rig.out()
    assert [read.headers.get("Number") for read in out] == [str(number) for number in range(21)]
    assert all(size <= MAX_BATCH_BYTES for size in sizes[:-1])


async def test_the_events_of_a_followed_call_are_marked_and_its_end_is_told_behind_them(
    make: Callable[..., Any],
) -> None:
    rig = await make()
    rig.follows.begin("u1", rig.now + 60)
    for each in (event("Newstate", Uniqueid="u1"), event("Newstate", Uniqueid="x"), event("Hangup", Uniqueid="u1")):
        rig.pump.offer(each)
    rig.pump.offer(event("Newstate", Uniqueid="u1"))
    rig.run()
    assert [(read.name, read.calls) for read in await rig.out()] == [
        ("Newstate", ["u1"]),
        ("Newstate", []),
        ("Hangup", ["u1"]),
        ("BusFollowEnded", ["u1"]),
        ("Newstate", []),
    ]


async def test_a_calls_events_reach_its_channel_and_its_record_in_one_step(make: Callable[..., Any]) -> None:
    rig = await make()
    await rig.redis.hset(rig.keys.action("a1"), "state", "sent")
    response = rig.calls.expect("a1", "u1")
    rig.pump.offer(event("Newchannel", Uniqueid="u1", Linkedid="u1", Channel="Local/1"))
    rig.pump.offer(event("OriginateResponse", ActionID="a1", Response="Success", Uniqueid="u1"))
    assert not response.done(), "the result must come after the event"
    rig.run()
    async with asyncio.timeout(60):
        await response
    rig.pump.offer(event("Hangup", Uniqueid="u1", Linkedid="u1", Cause="16"))
    out = await rig.out()
    assert [(read.name, read.action_ids) for read in out] == [
        ("Newchannel", ["a1"]),
        ("OriginateResponse", ["a1"]),
        ("Hangup", ["a1"]),
    ]
    record = await rig.redis.hgetall(rig.keys.action("a1"))
    assert (record[b"call"], record[b"cause"], record[b"channel"]) == (b"ended", b"16", b"Local/1")
    assert await rig.redis.hgetall(rig.keys.legs) == {}


async def test_secrets_are_withheld_or_masked(make: Callable[..., Any]) -> None:
    rig = await make(sensitive_events=("authlist",))
    rig.run()
    for name in ("AuthDetail", "AUTHDETAIL", "AuthList", "VoicemailPasswordChange"):
        rig.pump.offer(event(name, Password="hush"))
    rig.pump.offer(event("UserEvent", ("UserEvent", "x"), ("Secret", "hush"), ("Note", "open")))
    out = await rig.out()
    assert [read.name for read in out] == ["AuthList", "UserEvent"]
    assert (out[1].headers.get("Secret"), out[1].headers.get("Note")) == ("***", "open")


@pytest.mark.parametrize(("variable", "shown"), [("AUTH_PASSWORD", "***"), ("pin", "***"), ("CAMPAIGN", "hush")])
async def test_a_variable_with_a_secret_is_masked_as_in_a_setvar(
    make: Callable[..., Any], variable: str, shown: str
) -> None:
    rig = await make()
    rig.run()
    rig.pump.offer(event("VarSet", ("Channel", "Local/1"), ("Variable", variable), ("Value", "hush")))
    [out] = await rig.out()
    assert (out.headers["Channel"], out.headers["Variable"], out.headers["Value"]) == ("Local/1", variable, shown)


async def test_the_pump_has_events_of_its_own(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    rig.pump.announce("BusConnected", ["a1"], asterisk="22.10.1", port=5038)
    [out] = await rig.out()
    assert (out.name, out.action_ids, out.headers.pairs) == (
        "BusConnected",
        ["a1"],
        [("asterisk", "22.10.1"), ("port", "5038")],
    )


async def test_memory_is_bounded_and_what_was_dropped_is_announced(make: Callable[..., Any]) -> None:
    rig = await make(event_buffer_mb=0.05)
    with structlog.testing.capture_logs() as logs:
        for each in numbered(0, 1000):
            rig.pump.offer(each)
        kept = rig.pump.queued
        assert 0 < kept < 300
        assert rig.pump.events_dropped == 1000 - kept
        rig.now = 9.0
        rig.run()
        out = await rig.out()
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"], "said once, not a thousand times"
    assert [read.name for read in out] == ["Newexten"] * kept + ["BusGap"]
    gap = out[-1].headers
    assert (gap.get("reason"), gap.get("dropped")) == ("overflow", str(1000 - kept))
    assert (gap.get("since"), gap.get("until")) == ("7.000000", "9.000000")
    assert len(rig.gaps) == 1
    assert [read.seq for read in out] == list(range(1, kept + 2)), "the gap is told by BusGap, not by seq"
    rig.pump.offer(event("Newexten"))
    assert [read.name for read in (await rig.out())[kept + 1 :]] == ["Newexten"]


async def test_the_ends_of_the_buss_own_calls_are_the_last_to_be_dropped(make: Callable[..., Any]) -> None:
    rig = await make(event_buffer_mb=0.05)
    await rig.redis.hset(rig.keys.action("a1"), "state", "sent")
    response = rig.calls.expect("a1", "u1")
    rig.pump.offer(event("Newchannel", Uniqueid="u1", Linkedid="u1"))
    for each in numbered(0, 1000):
        rig.pump.offer(each)
    rig.pump.offer(event("OriginateResponse", ActionID="a1", Response="Success", Uniqueid="u1"))
    rig.pump.offer(event("Hangup", Uniqueid="u1", Linkedid="u1", Cause="16"))
    rig.run()
    names = [read.name for read in await rig.out()]
    assert names[0] == "Newchannel"
    assert names[-3:] == ["OriginateResponse", "Hangup", "BusGap"]
    assert response.done()
    assert await rig.redis.hget(rig.keys.action("a1"), "call") == b"ended"


async def test_even_where_they_are_dropped_the_calls_state_is_not_lost(make: Callable[..., Any]) -> None:
    rig = await make(event_buffer_mb=0.001)
    await rig.redis.hset(rig.keys.action("a1"), "state", "sent")
    response = rig.calls.expect("a1", "u1")
    rig.pump.offer(event("Newexten", Filler="x" * 2000))
    rig.pump.offer(event("Newchannel", Uniqueid="u1", Linkedid="u1"))
    rig.pump.offer(event("OriginateResponse", ActionID="a1", Response="Success", Uniqueid="u1"))
    assert response.done(), "whoever waits must not wait for an event that never goes out"
    rig.pump.offer(event("Hangup", Uniqueid="u1", Linkedid="u1", Cause="16"))
    rig.run()
    out = await rig.out()
    assert [read.name for read in out] == ["Newexten", "BusGap"]
    assert out[1].headers.get("dropped") == "3"
    assert await rig.redis.hget(rig.keys.action("a1"), "call") == b"ended"
    assert await rig.redis.hgetall(rig.keys.legs) == {}


def call_events(action_id: str, legs: int) -> list[Event]:
    """The life of one call, from its first Newchannel to its last Hangup, with its OriginateResponse in the midst."""
    uniqueids = [f"{action_id}-{leg}" for leg in range(legs)]
    first = uniqueids[0]
    return [
        *[event("Newchannel", Uniqueid=each, Linkedid=first, Channel=f"Local/{each}") for each in uniqueids],
        event("OriginateResponse", ActionID=action_id, Response="Success", Uniqueid=first),
        *[event("Hangup", Uniqueid=each, Linkedid=first, Cause="16") for each in reversed(uniqueids)],
    ]


async def test_what_is_remembered_of_dropped_events_is_bounded_by_the_number_of_calls(make: Callable[..., Any]) -> None:
    rig = await make(event_buffer_mb=0.0001)
    rig.pump.offer(event("Newexten"))
    for number in range(20):
        await rig.redis.hset(rig.keys.action(f"a{number}"), "state", "sent")
        rig.calls.expect(f"a{number}", f"a{number}-0")
        for each in call_events(f"a{number}", 5):
            rig.pump.offer(each)
    assert rig.pump.events_dropped == 20 * 11
    assert len(rig.pump._orphans) == 20
    rig.run()
    assert [read.name for read in await rig.out()] == ["Newexten", "BusGap"]
    for number in range(20):
        record = await rig.redis.hgetall(rig.keys.action(f"a{number}"))
        assert (record[b"call"], record[b"channel"]) == (b"ended", b"Local/a%d-0" % number)
    assert await rig.redis.hgetall(rig.keys.legs) == {}


async def test_the_memory_that_is_accounted_for_is_what_events_take(make: Callable[..., Any]) -> None:
    rig = await make(event_buffer_mb=2)
    calls = [each for number in range(200) for each in call_events(f"a{number}", 5)]
    for number in range(200):
        rig.calls.expect(f"a{number}", f"a{number}-0")
    events = [*calls, *numbered(0, 30_000)]
    tracemalloc.start()
    try:
        for each in events:
            rig.pump.offer(each)
        modules = ("*/workers/event_pump.py", "*/workers/event_buffer.py")
        only = [tracemalloc.Filter(True, module) for module in modules]
        snapshot = tracemalloc.take_snapshot().filter_traces(only)
    finally:
        tracemalloc.stop()
    taken = sum(line.size for line in snapshot.statistics("filename"))
    assert rig.pump.events_dropped
    limit = 2 * 1024 * 1024
    # The allocator's own rounding is not seen from here.
    assert 0.75 * limit < taken < limit
    rig.run()
    await rig.out()


# -- with a spool on disk


def spooling(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"event_buffer_mb": 0.02, "event_spool_dir": str(tmp_path), **more}


def lose_spools(base: Path) -> None:
    """What a failing disk does, or somebody who tidies up."""
    for path in base.iterdir():
        while path.exists():  # its thread may be writing yet another chunk
            shutil.rmtree(path, ignore_errors=True)


async def test_with_a_spool_nothing_is_dropped_and_the_order_is_kept(make: Callable[..., Any], tmp_path: Path) -> None:
    rig = await make(**spooling(tmp_path))
    rig.run()
    spooled = 0
    for number in range(0, 9000, 300):  # in the middle of it Redis takes some
        for each in numbered(number, number + 300):
            rig.pump.offer(each)
        spooled = max(spooled, rig.pump.spooled)
        if number > 4500:
            waiting = rig.pump.queued
            await until(lambda: rig.pump.queued < waiting)  # noqa: B023 - awaited before the next turn
    assert spooled > 3000
    out = await rig.out()
    assert [read.headers.get("Number") for read in out] == [str(number) for number in range(9000)]
    assert [read.seq for read in out] == list(range(1, 9001))
    assert (rig.pump.events_dropped, rig.pump.spooled) == (0, 0)
    await until(lambda: not list(tmp_path.iterdir()))


async def test_what_a_call_needs_survives_the_way_through_the_disk(make: Callable[..., Any], tmp_path: Path) -> None:
    rig = await make(**spooling(tmp_path))
    await rig.redis.hset(rig.keys.action("a1"), "state", "sent")
    response = rig.calls.expect("a1", "a1-0")
    early, *late = call_events("a1", 2)
    rig.pump.offer(early)
    for each in numbered(0, 1000):
        rig.pump.offer(each)
    for each in late:
        rig.pump.offer(each)
    for each in numbered(1000, 2000):
        rig.pump.offer(each)
    assert not response.done(), "the result must come after the event"
    out_before_it: list[int] = []
    response.add_done_callback(lambda _: out_before_it.append(rig.pump._last_out))
    rig.run()
    out = await rig.out()
    told = [read for read in out if read.action_ids]
    names = ["Newchannel", "Newchannel", "OriginateResponse", "Hangup", "Hangup"]
    assert [(read.name, read.action_ids) for read in told] == [(name, ["a1"]) for name in names]
    assert (await response).state == "done"
    assert out_before_it[0] >= told[2].seq
    assert rig.pump._awaited == {}
    record = await rig.redis.hgetall(rig.keys.action("a1"))
    assert (record[b"call"], record[b"cause"]) == (b"ended", b"16")
    assert await rig.redis.hgetall(rig.keys.legs) == {}


async def test_where_the_disk_space_ends_the_rest_is_dropped_and_counted(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    rig = await make(**spooling(tmp_path, event_spool_mb=0.1))
    response = rig.calls.expect("a1", "a1-0")
    early, *late = call_events("a1", 1)
    rig.pump.offer(early)
    with structlog.testing.capture_logs() as logs:
        for each in numbered(0, 5000):
            rig.pump.offer(each)
        for each in late:
            rig.pump.offer(each)
        assert len(logs) == 1
    rig.run()
    out = await rig.out()
    kept = [int(read.headers["Number"]) for read in out if read.name == "Newexten"]
    assert 500 < len(kept) < 2000
    assert kept == list(range(len(kept)))
    assert [read.name for read in out[-3:]] == ["OriginateResponse", "Hangup", "BusGap"], "the last to be dropped"
    assert out[-1].headers["dropped"] == str(5000 - len(kept))
    assert [read.seq for read in out] == list(range(1, len(out) + 1))
    assert response.done()


async def test_what_the_disk_loses_is_counted_and_the_calls_are_not_lost_with_it(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    rig = await make(**spooling(tmp_path))
    await rig.redis.hset(rig.keys.action("a1"), "state", "sent")
    response = rig.calls.expect("a1", "a1-0")
    early, *late = call_events("a1", 2)
    rig.pump.offer(early)
    for each in [*numbered(0, 1000), *late, *numbered(1000, 2000)]:
        rig.pump.offer(each)
    await until(lambda: len(list(tmp_path.glob("*/*"))) > 10)
    lost = rig.pump.spooled
    rig.now = 9.0
    lose_spools(tmp_path)
    rig.run()
    rig.pump.offer(event("Newexten", Number="2000"))
    out = await rig.out()
    assert [read.seq for read in out] == list(range(1, len(out) + 1))
    *before, gap = out
    assert [read.name for read in before] == ["Newchannel"] + ["Newexten"] * (len(before) - 1)
    assert (gap.name, gap.headers["dropped"], gap.headers["since"]) == ("BusGap", str(lost + 1), "7.000000")
    assert len(before) + lost == 2000 + 5
    assert rig.pump.events_dropped == lost + 1
    assert response.done(), "whoever waits must not wait for an event that never goes out"
    record = await rig.redis.hgetall(rig.keys.action("a1"))
    assert (record[b"call"], record[b"cause"]) == (b"ended", b"16")
    assert await rig.redis.hgetall(rig.keys.legs) == {}
    rig.pump.offer(event("Newexten", Number="2001"))
    assert [read.headers["Number"] for read in (await rig.out())[len(out) :]] == ["2001"]


async def test_a_pump_that_was_fenced_publishes_nothing_more(make: Callable[..., Any]) -> None:
    rig = await make()
    await rig.redis.incr(rig.keys.epoch)
    rig.run()
    rig.pump.offer(event("Hangup"))
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(rig.task, 60)
    assert await rig.redis.xlen(rig.keys.events) == 0


async def test_event_channels_may_be_turned_off(make: Callable[..., Any]) -> None:
    rig = await make(event_channels=False)
    subscriber = rig.redis.pubsub()
    await subscriber.psubscribe("*")
    await subscriber.get_message(timeout=60)
    rig.calls.load({"u1": "a1"}, {})
    rig.run()
    rig.pump.offer(event("Newexten", Uniqueid="u1"))
    message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=60)
    assert message["channel"].decode() == rig.keys.action("a1")
    await subscriber.aclose()


async def test_an_idle_pump_is_healthy_and_a_stuck_one_is_not(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    rig.pump.offer(event("Newexten"))
    await rig.out()
    seen = rig.pump.progress_at
    await until(lambda: rig.pump.progress_at > seen)
    rig.task.cancel()
    await asyncio.wait([rig.task])
    rig.pump.offer(event("Newexten"))
    stuck = rig.pump.progress_at
    began = time.monotonic()
    await asyncio.sleep(0)
    assert rig.pump.progress_at == stuck <= began


async def test_hostile_texts_in_events_hold_nothing_up(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    texts = ["", "\0", "\r\n", "\u2028", "\U0010ffff", "x" * 100_000, "{x}", "\xff"]
    for text in texts:
        rig.pump.offer(event(text or "Empty", (text, text), Uniqueid=text))
    assert [read.headers.get("Uniqueid") for read in await rig.out()] == texts


async def test_what_redis_could_not_take_goes_out_once_it_is_back(own_redis: RedisServer) -> None:
    rig = await Rig(own_redis.url).open()
    rig.run()
    for each in numbered(0, 300):
        rig.pump.offer(each)
    first = await rig.out()
    own_redis.kill()
    for each in numbered(300, 600):
        rig.pump.offer(each)
    await asyncio.to_thread(own_redis.start)
    await rig.redis.set(rig.keys.epoch, rig.lease.epoch)  # `everysec` may have lost the last second
    numbers = [int(read.headers["Number"]) for read in await rig.out()]
    assert numbers[-300:] == list(range(300, 600))
    assert len(set(numbers)) == len(numbers)
    assert len(first) == 300
    await rig.close()


async def publish(rig: Rig, first: int, last: int) -> list[BusEvent]:
    for each in numbered(first, last):
        rig.pump.offer(each)
    return await rig.out()


async def forget(rig: Rig, count: int) -> list[Any]:
    """As a failover to a replica that lagged: the last entries of the stream are gone. What is left of it."""
    for entry, _ in await rig.redis.xrevrange(rig.keys.events, count=count):
        await rig.redis.xdel(rig.keys.events, entry)
    left: list[Any] = await Redis.xrevrange(rig.redis, rig.keys.events, count=1)
    return left


async def test_what_redis_has_forgotten_is_announced_before_what_comes_next(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    await publish(rig, 1, 11)
    [(entry, _)] = await forget(rig, 4)
    out = await publish(rig, 11, 13)
    assert [(read.name, read.seq) for read in out[5:]] == [
        ("Newexten", 6), ("BusGap", 10), ("Newexten", 11), ("Newexten", 12),
    ]  # fmt: skip
    since = f"{int(entry.split(b'-')[0]) / 1000:.6f}"
    assert out[6].headers.pairs == [
        ("reason", "forgotten"), ("since", since), ("until", "7.000000"), ("dropped", "4"),
    ]  # fmt: skip
    assert len(rig.gaps) == 1
    assert [read.name for read in await publish(rig, 13, 14)][-2:] == ["Newexten", "Newexten"], "it is said once"


async def test_of_an_emptied_stream_nobody_can_say_how_many_are_missing(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    await publish(rig, 1, 4)
    await rig.redis.delete(rig.keys.events)
    gap, event = await publish(rig, 4, 5)
    assert (gap.name, gap.seq, event.seq) == ("BusGap", 3, 4)
    assert gap.headers.get("dropped") == ""
    assert gap.headers.get("since") == f"{rig.lease.started_at:.6f}"


async def test_a_gap_whose_reply_was_lost_is_told_once(make: Callable[..., Any]) -> None:
    rig = await make()
    publish_once = rig.pump._publish

    async def lossy(*arguments: Any) -> Any:
        answer = await publish_once(*arguments)
        if answer == 1 and rig.gaps and not lost:
            lost.append(answer)
            raise ConnectionError("the reply was lost")
        return answer

    lost: list[Any] = []
    rig.pump._publish = lossy
    rig.run()
    await publish(rig, 1, 4)
    await forget(rig, 1)
    out = await publish(rig, 4, 6)
    assert lost
    assert [(read.name, read.seq) for read in out] == [
        ("Newexten", 1), ("Newexten", 2), ("BusGap", 3), ("Newexten", 4), ("Newexten", 5),
    ]  # fmt: skip


# -- from epoch to epoch


async def last_event(rig: Rig) -> tuple[str, BusEvent | None]:
    entries: Any = await Redis.xrevrange(rig.redis, rig.keys.events, count=1)
    for entry, fields in entries:
        found = decode_message(fields[b"data"])
        assert isinstance(found, BusEvent)
        return entry.decode(), found
    return "0-0", None


async def succeed(rig: Rig) -> bool:
    """The epoch is over, and another pump goes on; whether Redis has forgotten events of it."""
    assert rig.task is not None
    await asyncio.wait([rig.task])
    assert isinstance(rig.task.exception(), LeaseLost)
    await rig.lease.acquire()
    assert rig.lease.has_gone_back
    former, rig.pump = rig.pump, rig.make_pump()
    try:
        return await rig.pump.take_over(former, *await last_event(rig))
    finally:
        former.close()
        rig.run()


@pytest.mark.parametrize("spool", [False, True])
async def test_what_waited_when_redis_was_emptied_comes_after_what_it_has_forgotten(
    make: Callable[..., Any], tmp_path: Path, spool: bool
) -> None:
    more = {"event_spool_dir": str(tmp_path), "event_buffer_mb": 0.001} if spool else {}
    rig = await make(**more)
    rig.run()
    await publish(rig, 1, 4)
    started_at = rig.lease.started_at
    await rig.redis.flushall()
    note = {"id": "a1", "add": ["u1"], "drop": [], "fields": [], "ttl_ms": None}
    rig.pump.offer(Event(Headers([("Event", "Odd"), ("Text", "\u00e4")], ("Text",))))
    rig.pump.announce_headers("BusMine", Headers([("Twice", "1"), ("Twice", "2")]), ["a1"], [note], ["u9"])
    for each in numbered(4, 60):
        rig.pump.offer(each)
    rig.pump.note({**note, "add": ["u2"]})
    assert bool(rig.pump.spooled) is spool
    assert await succeed(rig)
    gap, first, second, *others = await publish(rig, 60, 61)
    since = [("reason", "forgotten"), ("since", f"{started_at:.6f}"), ("until", "7.000000"), ("dropped", "")]
    assert (gap.name, gap.headers.pairs) == ("BusGap", since)
    assert (first.headers.get("Text"), first.headers.latin1) == ("\u00e4", ("Text",))
    assert (second.headers.get_all("Twice"), second.action_ids, second.calls) == (["1", "2"], ["a1"], ["u9"])
    assert [each.headers.get("Number") for each in others] == [str(number) for number in range(4, 61)]
    assert [each.seq for each in (gap, first, second, *others)] == list(range(1, len(others) + 4))
    assert {each.epoch for each in (gap, first, second, *others)} == {rig.lease.epoch}
    assert await rig.redis.hgetall(rig.keys.legs) == {b"u1": b"a1", b"u2": b"a1"}
    await rig.redis.flushall()
    rig.pump.offer(event("Newexten", Number="61"))
    assert await succeed(rig)
    assert (await rig.out())[0].headers.get("since") == f"{started_at:.6f}", "what was forgotten before is, still"


async def test_nothing_is_forgotten_where_only_the_epoch_is(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    await publish(rig, 1, 4)
    await rig.redis.delete(rig.keys.epoch, rig.keys.lease)
    rig.pump.offer(event("Newexten", Number="4"))
    assert not await succeed(rig)
    out = await publish(rig, 5, 6)
    assert [each.headers.get("Number") for each in out] == ["1", "2", "3", "4", "5"]


async def test_a_part_that_is_forgotten_with_the_epoch_is_counted(make: Callable[..., Any]) -> None:
    rig = await make()
    rig.run()
    await publish(rig, 1, 11)
    [(entry, _)] = await forget(rig, 4)
    await rig.redis.delete(rig.keys.epoch, rig.keys.lease)
    rig.pump.offer(event("Newexten", Number="11"))
    assert await succeed(rig)
    gap, after = (await rig.out())[6:]
    assert (gap.name, gap.headers.get("dropped"), after.headers.get("Number")) == ("BusGap", "4", "11")
    assert gap.headers.get("since") == f"{int(entry.split(b'-')[0]) / 1000:.6f}"


async def test_what_is_out_and_whose_reply_was_lost_is_not_published_again(make: Callable[..., Any]) -> None:
    async def lossy(*arguments: Any) -> Any:
        await publish_once(*arguments)
        await rig.redis.delete(rig.keys.epoch, rig.keys.lease)
        raise ConnectionError("the reply was lost")

    rig = await make()
    publish_once, rig.pump._publish = rig.pump._publish, lossy
    rig.pump.offer(event("Newexten", Number="1"))
    rig.run()
    await until(lambda: rig.redis.exists(rig.keys.events))
    rig.pump._publish = publish_once
    rig.pump.offer(event("Newexten", Number="2"))
    assert not await succeed(rig)
    assert [each.headers.get("Number") for each in await rig.out()] == ["1", "2"]


async def test_what_had_been_dropped_is_told_in_the_next_epoch(make: Callable[..., Any]) -> None:
    rig = await make(event_buffer_mb=0.001)
    for each in numbered(0, 100):
        rig.pump.offer(each)
    dropped = rig.pump.events_dropped
    assert dropped
    await rig.redis.flushall()
    rig.run()
    assert not await succeed(rig)
    *_, gap = await rig.out()
    assert (gap.headers.get("reason"), gap.headers.get("dropped")) == ("overflow", str(dropped))
    assert rig.pump.events_dropped == dropped
