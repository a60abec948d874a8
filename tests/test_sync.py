"""The blocking client, from many threads, against real Redis and Valkey."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from broker import (
    ActionFailed,
    ActionUnknown,
    BusUnavailable,
    NoSuchAction,
    Refused,
    ResultTimeout,
    SettingsError,
    State,
)
from broker import submission as submission_module
from broker.ami import Headers
from broker.entry import Request
from broker.keys import Keys
from broker.sync import Bus, Server
from tests.bus_side import NAME, FakeWorker
from tests.servers import RedisServer

KEYS = Keys("pbx1")


class WorkerThread:
    """The stand-in for the worker, on a loop of its own."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, args=(url,))
        self.ready = threading.Event()

    def start(self) -> None:
        self.thread.start()
        assert self.ready.wait(60)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(60)

    def _serve(self, url: str) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._work(url))

    async def _work(self, url: str) -> None:
        self.over = asyncio.Event()
        async with FakeWorker(url) as self.worker:
            self.ready.set()
            await self.over.wait()


@pytest.fixture
def worker(redis_url: str) -> Iterator[FakeWorker]:
    thread = WorkerThread(redis_url)
    thread.start()
    yield thread.worker
    thread.stop()


@pytest.fixture
def bus(redis_url: str) -> Iterator[Bus]:
    with Bus(redis_url) as client:
        yield client


@pytest.fixture
def pbx(bus: Bus) -> Server:
    return bus.server("pbx1")


def test_a_request(worker: FakeWorker, pbx: Server) -> None:
    result = pbx.request("Ping", timeout=60, tag="t", headers={"X-Own": "1"}, Variable=["a=1", "b=2"])
    assert result.state is State.DONE
    assert worker.taken[0].pairs == [("Variable", "a=1"), ("Variable", "b=2"), ("X-Own", "1")]
    record = pbx.action_record(result.action_id)
    assert record is not None
    assert record.result == result


def test_what_becomes_of_a_call(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        leg = {"Uniqueid": f"amibus-pbx1-{request.action_id}", "Channel": "Local/1"}
        await worker.settle(request, call="up", reason="4")
        await worker.event("Newchannel", request.action_id, headers=leg)
        enters = leg | {"BridgeUniqueid": "b", "BridgeNumChannels": "2"}
        await worker.event("BridgeEnter", request.action_id, headers=enters)
        over = {"call": "ended", "cause": "16"}
        await worker.event("Hangup", request.action_id, headers=leg | {"Cause": "16"}, then=over)

    worker.on("Originate", answer)
    with pbx.originate("Local/1", "200", timeout=60) as call:
        assert call.answered(60).is_answered
        bridge = call.bridged(60)
        assert bridge is not None
        assert bridge.legs == (call.uniqueid,)
        outcome = call.ended(60)
        assert (outcome.reason, outcome.cause, outcome.channel) == (4, 16, call.channel)
        assert [leg.names for leg in call.legs] == [("Local/1",)]
        assert [event.name for event in call.events()] == ["Newchannel", "BridgeEnter", "Hangup"]


def test_a_call_of_somebody_else_is_followed(worker: FakeWorker, pbx: Server) -> None:
    async def follow(worker: FakeWorker, request: Request) -> None:
        leg = {"Uniqueid": request.target, "Channel": "PJSIP/1", "ChannelState": "6"}
        await worker.settle(request, events=[Headers([*leg.items()])])
        await worker.event("Hangup", headers=leg | {"Cause": "17"}, calls=[request.target])
        await worker.event("BusFollowEnded", headers={"Uniqueid": request.target}, calls=[request.target])

    worker.on("BusFollow", follow)
    with pbx.follow("u1", timeout=60) as call:
        assert (call.uniqueid, call.channel_id, call.server) == ("u1", "u1", "pbx1")
        assert call.answered(60).is_answered
        assert call.ended(60).cause == 17
        assert call.bridged(60) is None
        assert [event.name for event in call.events()] == ["Hangup", "BusFollowEnded"]


def test_errors_are_the_same(worker: FakeWorker, pbx: Server) -> None:
    async def fail(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, State.FAILED, code="asterisk-error", message="No such channel")

    async def never(worker: FakeWorker, request: Request) -> None:
        pass

    worker.on("Hangup", fail)
    worker.on("Wait", never)
    with pytest.raises(ActionFailed, match="No such channel"):
        pbx.request("Hangup", timeout=60)
    assert not pbx.request("Hangup", timeout=60, raise_on_failure=False).is_done
    with pytest.raises(ResultTimeout):
        pbx.request("Wait", timeout=0.1)
    with pytest.raises(SettingsError):
        Bus("nonsense://")


def test_twenty_threads_share_a_few_connections(worker: FakeWorker, pbx: Server, redis_server: RedisServer) -> None:
    def requests(number: int) -> list[str]:
        return [pbx.request("Ping", timeout=60, tag=str(number)).action_id for _ in range(20)]

    with redis_server.client() as admin, ThreadPoolExecutor(20) as threads:
        pbx.request("Ping", timeout=60)
        before = connections_ever(admin)
        ids = [action_id for found in threads.map(requests, range(20)) for action_id in found]
        # The stand-in may have opened some of its eight; the client none.
        assert connections_ever(admin) - before <= 8
    assert len(set(ids)) == 400


def test_a_call_is_followed(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id)
        await worker.event("Hangup", request.action_id, then={"call": "ended"})

    worker.on("Originate", answer)
    with pbx.submit("Originate", Channel="Local/1", action_id="c1", timeout=60) as call:
        assert [event.name for event in call.events()] == ["Newchannel", "Hangup"]
        assert call.result(timeout=60).is_done
        assert (call.action_id, call.action, call.server) == ("c1", "Originate", "pbx1")
        assert call.entry == worker.taken[0].entry
        record = call.action_record()
        assert record is not None
        assert record.call == "ended"
        assert call.response is None
        assert "Originate c1 done" in repr(call)


def test_events_from_now_on_begin_with_the_call_itself(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.event("Hangup")
        await worker.settle(request)

    worker.on("Ping", answer)
    events = pbx.events("Hangup")
    pbx.request("Ping", timeout=60)
    assert next(events).seq == 1
    events.close()


def test_an_iteration_that_is_given_up_closes_its_connection(
    worker: FakeWorker, pbx: Server, redis_server: RedisServer
) -> None:
    pbx.request("Ping", timeout=60)
    with redis_server.client() as admin:
        before = set(connections_of(admin))  # one of an earlier test may go meanwhile

        def iterate() -> None:
            for event in pbx.events(since="0"):
                assert event.seq == 1
                break

        run_on(worker, lambda: worker.event("Any"))
        iterate()
        gc.collect()
        until(lambda: before.issuperset(connections_of(admin)))


def test_status_and_servers(worker: FakeWorker, bus: Bus, pbx: Server, redis_server: RedisServer) -> None:
    with redis_server.client() as admin:
        admin.hset(KEYS.worker, "state", "connected")
        admin.zadd("ami:servers", {"pbx1": 1.5})
    assert pbx.status() == {"state": "connected"}
    assert bus.servers() == {"pbx1": 1.5}
    assert bus.time() == pytest.approx(time.time(), abs=60)


def test_closing_ends_all_waiting_and_the_thread(worker: FakeWorker, redis_url: str) -> None:
    async def never(worker: FakeWorker, request: Request) -> None:
        pass

    worker.on("Wait", never)
    bus = Bus(redis_url)
    pbx = bus.server("pbx1")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pbx.request, "Wait")
        until(lambda: worker.taken)
        events = pbx.events()
        bus.close()
        with pytest.raises(BusUnavailable, match="closed"):
            waiting.result(60)
    with pytest.raises(BusUnavailable, match="closed"):
        pbx.request("Ping")
    with pytest.raises(BusUnavailable, match="closed"):
        next(events)
    bus.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "amibus client"]


def test_whoever_waits_for_an_entry_that_is_gone_hears_of_it(
    pbx: Server, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission_module, "FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(submission_module, "NEXT_LOOK_S", 0.01)
    with redis_server.client() as admin, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pbx.request, "Originate", Channel="Local/1")
        until(lambda: admin.xlen(KEYS.actions) == 1)
        admin.flushall()
        with pytest.raises(ActionUnknown, match="its entry is gone"):
            waiting.result(60)


def test_a_bus_that_did_nothing_has_no_thread(redis_url: str) -> None:
    bus = Bus(redis_url)
    assert not [thread for thread in threading.enumerate() if thread.name == "amibus client"]
    bus.close()
    with pytest.raises(BusUnavailable):
        bus.servers()


def test_nobody_there(own_redis: RedisServer) -> None:
    own_redis.kill()
    with pytest.raises(BusUnavailable, match="cannot be reached"), Bus(own_redis.url):
        pytest.fail("connected to nothing")
    assert "***" in repr(Bus("redis://:geheim@localhost"))


def connections_of(admin: "redis.Redis") -> list[str]:
    """The connections that are neither the stand-in's nor the one that asks."""
    own = str(admin.client_id())
    return [c["id"] for c in admin.client_list() if c["name"] != NAME and c["id"] != own]


def connections_ever(admin: "redis.Redis") -> int:
    """How many connections this server has accepted since its start."""
    return int(admin.info("stats")["total_connections_received"])


def run_on(worker: FakeWorker, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run something on the stand-in's loop."""
    asyncio.run_coroutine_threadsafe(work(), worker.loop).result(60)


def until(condition: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Wait for a condition; fail after the deadline."""
    deadline = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def test_typed_calls(worker: FakeWorker, pbx: Server) -> None:
    async def members(worker: FakeWorker, request: Request) -> None:
        items = [Headers([("Event", "ConfbridgeList"), ("Channel", "PJSIP/1-1"), ("Muted", "Yes")])]
        await worker.settle(request, events=items)

    async def missing(worker: FakeWorker, request: Request) -> None:
        message = "Invalid/unknown command: Monitor. Use Action: ListCommands to show available commands."
        await worker.settle(request, State.FAILED, code="asterisk-error", message=message)

    worker.on("ConfbridgeList", members)
    worker.on("Monitor", missing)
    conference = pbx.conference("600")
    [member] = conference.members(timeout=60)
    assert (conference.name, member.channel, member.is_muted) == ("600", "PJSIP/1-1", True)
    conference.unmute(member.channel, timeout=60)
    with pbx.originate("PJSIP/100", "200", variables={"a": "1,2"}, action_id="c1", timeout=60) as call:
        assert call.result(timeout=60).is_done
        assert (call.action_id, call.channel_id) == ("c1", "amibus-pbx1-c1")
        call.hangup(17, timeout=60)
    assert [(request.action, request.pairs[:2]) for request in worker.taken[1:]] == [
        ("ConfbridgeUnmute", [("Conference", "600"), ("Channel", "PJSIP/1-1")]),
        ("Originate", [("Channel", "PJSIP/100"), ("Exten", "200")]),
        ("Hangup", [("Channel", call.channel_id), ("Cause", "17")]),
    ]
    assert ("Variable", "a=1\\,2") in worker.taken[2].pairs
    with pytest.raises(NoSuchAction, match=r"res_monitor\.so"):
        pbx.monitor("PJSIP/1-1", "a", timeout=60)
    with pytest.raises(Refused):
        pbx.hangup("/.*/")
    assert (repr(pbx), repr(conference)) == ("<Server pbx1>", "<Conference 600>")
