"""The asyncio client against real Redis and Valkey, with a stand-in for the worker."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
import uvloop

from broker import (
    ActionCancelled,
    ActionError,
    ActionExpired,
    ActionFailed,
    ActionRejected,
    ActionUnknown,
    Bus,
    BusEvent,
    BusUnavailable,
    Call,
    Refused,
    ResultTimeout,
    Server,
    SettingsError,
    State,
)
from broker import call_events as call_module
from broker import dispatcher as dispatcher_module
from broker import event_stream as event_stream_module
from broker import link as link_module
from broker import pipeline as pipeline_module
from broker import submission as submission_module
from broker.ami import Headers
from broker.entry import Request, fingerprint
from broker.keys import ACTIONS, LANES, URGENT, Keys
from broker.link import Address, is_transient, translated
from broker.messages import gap_before
from tests.bus_side import NAME, FakeWorker, Proxy, until
from tests.sentinel import Sentinels
from tests.servers import RedisServer

KEYS = Keys("pbx1")


# Requests


async def test_a_request_is_done(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        items = [Headers([("Event", "CoreShowChannel"), ("Channel", "PJSIP/1")])]
        await worker.settle(request, events=items, output=["a line"])

    worker.on("CoreShowChannels", answer)
    result = await pbx.request("CoreShowChannels", timeout=60, tag="t1")
    assert result.is_done
    assert result.action == "CoreShowChannels"
    assert result.tag == "t1"
    assert result.events[0]["Channel"] == "PJSIP/1"
    assert result.output == ["a line"]


async def test_an_entry_holds_what_was_asked_for(worker: FakeWorker, redis_url: str) -> None:
    async with Bus(redis_url, producer="crm-web") as bus:
        await bus.server("pbx1").request(
            "Originate",
            timeout=60,
            deadline="+30",
            answer_timeout=2.5,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            headers=[("X-Own", "ü")],
            Channel="Local/100@default",
            Priority=1,
            Async=True,
            CallerID=None,
            Variable=["a=1", "b=2"],
        )
    [request] = worker.taken
    assert request.refusal is None
    assert request.pairs == [
        ("Channel", "Local/100@default"),
        ("Priority", "1"),
        ("Async", "true"),
        ("Variable", "a=1"),
        ("Variable", "b=2"),
        ("X-Own", "ü"),
    ]
    assert request.producer == "crm-web"
    assert request.timeout_s == 2.5
    assert request.deadline == pytest.approx(request.queued_at + 30)
    assert request.traceparent.startswith("00-0af")
    assert request.action_id.startswith("b-")
    assert len(request.action_id) == 22
    assert request.lane == "actions"


async def test_urgent_takes_the_other_lane(worker: FakeWorker, pbx: Server) -> None:
    await pbx.request("Hangup", urgent=True, timeout=60, Channel="PJSIP/1")
    assert worker.taken[0].lane == "urgent"


async def test_a_producer_given_wins(worker: FakeWorker, redis_url: str) -> None:
    async with Bus(redis_url, producer="crm") as bus:
        await bus.server("pbx1").request("Ping", producer="other", timeout=60)
    assert worker.taken[0].producer == "other"


async def test_action_id_may_be_given_as_the_header_it_is(worker: FakeWorker, pbx: Server) -> None:
    result = await pbx.request("Ping", ActionID="call-42", timeout=60)
    assert result.action_id == "call-42"


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.FAILED, ActionFailed),
        (State.REJECTED, ActionRejected),
        (State.EXPIRED, ActionExpired),
        (State.CANCELLED, ActionCancelled),
        (State.UNKNOWN, ActionUnknown),
    ],
)
async def test_each_other_end_is_an_error_of_its_own(
    worker: FakeWorker, pbx: Server, state: State, error: type[ActionError]
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, state, code="a-code", message="why")

    worker.on("Ping", answer)
    with pytest.raises(error, match="why") as raised:
        await pbx.request("Ping", timeout=60)
    assert type(raised.value) is error
    assert raised.value.code == "a-code"
    assert raised.value.result.state is state
    result = await pbx.request("Ping", timeout=60, raise_on_failure=False)
    assert result.state is state


async def test_the_callers_own_timeout(worker: FakeWorker, pbx: Server) -> None:
    async def never(worker: FakeWorker, request: Request) -> None:
        await worker.update(request)

    worker.on("Ping", never)
    with pytest.raises(ResultTimeout, match="the action goes on") as raised:
        await pbx.request("Ping", timeout=0.3)
    await until(lambda: worker.taken)
    assert raised.value.action_id == worker.taken[0].action_id
    assert isinstance(raised.value, TimeoutError)


@pytest.mark.parametrize(
    "arguments",
    [
        {"Channel": "PJSIP/1\r\nAction: Command"},
        {"headers": {"bad name": "x"}},
        {"headers": {"Name\n": "x"}},
        {"action_id": "17-0"},
        {"action_id": "a", "ActionID": "b"},
        {"deadline": 30},
        {"Channel": "\ud800"},
    ],
)
async def test_what_could_never_be_sent_is_refused_here(
    worker: FakeWorker, pbx: Server, arguments: dict[str, Any]
) -> None:
    with pytest.raises(Refused):
        await pbx.request("Ping", timeout=60, **arguments)
    await pbx.request("Ping", timeout=60)
    assert len(worker.taken) == 1


async def test_hundreds_of_callers_share_a_few_connections(
    worker: FakeWorker, bus: Bus, pbx: Server, admin: redis.Redis
) -> None:
    ready = asyncio.Event()

    async def answer(worker: FakeWorker, request: Request) -> None:
        await ready.wait()
        await worker.settle(request)

    worker.on("Ping", answer)
    waiting = [asyncio.create_task(pbx.request("Ping", timeout=60)) for _ in range(300)]
    await until(lambda: len(worker.taken) == 300)
    assert len(client_connections(admin)) <= 4
    ready.set()
    results = await asyncio.gather(*waiting)
    assert len({result.action_id for result in results}) == 300
    assert all(result.is_done for result in results)


@pytest.mark.usefixtures("no_looking")
async def test_commands_that_wait_together_are_written_together(
    worker: FakeWorker, pbx: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pbx.request("Ping", timeout=60)
    batches: list[int] = []
    execute = link_module.Link.execute

    async def counted(self: Any, commands: list[bytes], timeout_s: float = 5.0) -> list[Any]:
        batches.append(len(commands))
        return await execute(self, commands, timeout_s)

    monkeypatch.setattr(link_module.Link, "execute", counted)
    monkeypatch.setattr(pipeline_module, "MAX_BATCH", 40)
    await asyncio.gather(*(pbx.request("Ping", timeout=60) for _ in range(100)))
    assert max(batches) == 40
    assert len(batches) < 10


async def test_a_cancelled_caller_leaves_nothing_behind(worker: FakeWorker, bus: Bus, pbx: Server) -> None:
    async def never(worker: FakeWorker, request: Request) -> None:
        pass

    worker.on("Wait", never)
    waiting = [asyncio.create_task(pbx.request("Wait")) for _ in range(10)]
    await until(lambda: len(worker.taken) == 10)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(pbx._submissions) == 0
    assert (await pbx.request("Ping", timeout=60)).is_done


# Results that do not come as they should


async def test_a_result_whose_message_was_lost_is_read_from_the_record(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, say=False)

    worker.on("Ping", answer)
    assert (await pbx.request("Ping", timeout=60)).is_done


async def test_a_final_record_without_its_message_is_a_result_too(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.update(request, state="cancelled", error_code="cancelled", error="taken back", settled_at="5.5")

    worker.on("Ping", answer)
    with pytest.raises(ActionCancelled, match="taken back") as raised:
        await pbx.request("Ping", timeout=60)
    assert raised.value.result.settled_at == 5.5


@pytest.mark.usefixtures("no_looking")
async def test_the_records_are_read_when_the_subscription_was_interrupted(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    lost = asyncio.Event()

    async def answer(worker: FakeWorker, request: Request) -> None:
        await lost.wait()
        await worker.settle(request, say=False)

    worker.on("Ping", answer)
    waiting = [asyncio.create_task(pbx.request("Ping")) for _ in range(20)]
    await until(lambda: len(worker.taken) == 20)
    lost.set()
    await until(lambda: len(worker._settled) == 20)
    await until(lambda: admin.xlen(KEYS.actions) == 0)
    assert not any(task.done() for task in waiting)
    admin.client_kill_filter(_type="pubsub")
    async with asyncio.timeout(60):
        assert all(result.is_done for result in await asyncio.gather(*waiting))


@pytest.mark.usefixtures("no_looking")
async def test_a_refusal_whose_message_was_lost_is_found_in_results(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle_refused(request, "forbidden", "not allowed", say=False)

    worker.on("Command", answer)
    waiting = asyncio.create_task(pbx.request("Command", Command="core stop now"))
    await until(lambda: admin.xlen(KEYS.results) == 1)
    admin.client_kill_filter(_type="pubsub")
    async with asyncio.timeout(60):
        with pytest.raises(ActionRejected, match="not allowed"):
            await waiting


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The slow backstop, made quick; the ActionIDs of the records that were read."""
    looks: list[str] = []
    look = submission_module.Submissions.look

    async def counted(self: Any, submission: Any, **options: Any) -> Any:
        looks.append(submission.action_id)
        return await look(self, submission, **options)

    monkeypatch.setattr(submission_module.Submissions, "look", counted)
    monkeypatch.setattr(submission_module, "FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(submission_module, "NEXT_LOOK_S", 0.01)
    return looks


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("urgent", [False, True])
@pytest.mark.parametrize(
    "lose",
    [lambda admin: admin.flushall(), lambda admin: [admin.xtrim(KEYS.lane(lane), maxlen=0) for lane in LANES]],
    ids=["flushed", "trimmed"],
)
async def test_whoever_waits_for_an_entry_that_is_gone_hears_of_it(
    pbx: Server, admin: redis.Redis, lose: Callable[[redis.Redis], Any], urgent: bool
) -> None:
    lane = KEYS.lane(URGENT if urgent else ACTIONS)
    waiting = asyncio.create_task(pbx.request("Originate", action_id="x1", Channel="Local/1", tag="t", urgent=urgent))
    await until(lambda: admin.xlen(lane) == 1)
    [(entry, _)] = entries(admin, lane)
    lose(admin)
    async with asyncio.timeout(60):
        with pytest.raises(ActionUnknown, match="its entry is gone") as raised:
            await waiting
    result = raised.value.result
    assert (result.error_code, result.entry, result.action_id, result.tag) == ("entry-lost", entry, "x1", "t")
    # Nor is it added again: what Redis has forgotten may have been executed.
    assert admin.xlen(lane) == 0


@pytest.mark.usefixtures("quick_looks")
async def test_whoever_waits_for_what_a_fail_over_lost_hears_of_it(sentinels: Sentinels) -> None:
    async with Bus(sentinels.url) as bus:
        pbx = bus.server("pbx1")
        await pbx.status()
        sentinels.lag()
        waiting = asyncio.create_task(pbx.request("Originate", Channel="Local/1"))
        with sentinels.primary.client() as primary:
            await until(lambda: primary.xlen(KEYS.actions) == 1)
        await asyncio.to_thread(sentinels.fail_over)
        async with asyncio.timeout(60):
            with pytest.raises(ActionUnknown, match="its entry is gone"):
                await waiting
        with sentinels.primary.client() as primary:
            assert primary.xlen(KEYS.actions) == 0


@pytest.mark.usefixtures("quick_looks")
async def test_the_truth_about_an_entry_that_was_lost_may_come_yet(
    redis_url: str, pbx: Server, admin: redis.Redis
) -> None:
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    [(entry, fields)] = entries(admin, KEYS.actions)
    admin.xdel(KEYS.actions, entry)
    assert (await call.result(timeout=60, raise_on_failure=False)).state is State.UNKNOWN
    admin.delete(KEYS.actions)
    admin.xadd(KEYS.actions, fields, entry)

    async def is_done() -> bool:
        return (await call.result(raise_on_failure=False)).is_done

    async with FakeWorker(redis_url):
        await until(is_done)


async def test_an_entry_that_is_queued_is_waited_for_however_often_it_is_looked_for(
    redis_url: str, pbx: Server, bus: Bus, admin: redis.Redis, quick_looks: list[str]
) -> None:
    waiting = asyncio.create_task(pbx.request("Originate", Channel="Local/1", deadline="+0.01"))
    await until(lambda: admin.xlen(KEYS.actions) == 1)
    for _ in range(3):
        admin.client_kill_filter(_type="pubsub")
        seen = len(quick_looks)
        await until(lambda seen=seen: len(quick_looks) > seen + 2 * submission_module.LOST_AFTER)  # type: ignore[misc]
    assert not waiting.done()
    async with FakeWorker(redis_url) as worker:
        assert (await waiting).is_done
    assert len(worker.taken) == 1


def listening(admin: redis.Redis) -> set[str]:
    """The ids of the connections that are subscribed to something."""
    return {each["id"] for each in admin.client_list(_type="pubsub")}


@pytest.mark.usefixtures("no_looking")
async def test_messages_still_come_after_an_interruption(
    worker: FakeWorker, pbx: Server, bus: Bus, admin: redis.Redis
) -> None:
    for _ in range(3):
        assert (await pbx.request("Ping", timeout=60)).is_done
        cut = listening(admin)
        admin.client_kill_filter(_type="pubsub")
        await until(lambda: listening(admin) - cut and bus._dispatcher._online and bus._dispatcher._channels)  # noqa: B023
    assert (await pbx.request("Ping", timeout=60)).is_done


async def test_connections_killed_under_load_lose_no_request(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    finished = 0

    async def requests() -> None:
        nonlocal finished
        for _ in range(20):
            assert (await pbx.request("Ping", timeout=60)).is_done
            finished += 1

    load = asyncio.gather(*(requests() for _ in range(10)))
    for step in range(1, 5):
        await until(lambda step=step: finished >= 40 * step or load.done())  # type: ignore[misc]
        for client_id in client_connections(admin):
            admin.client_kill_filter(_id=client_id)
    await load
    assert finished == 200


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_reset_while_idle_is_opened_again(redis_url: str, new_loop: Callable[[], Any]) -> None:
    def reset(link: Any) -> None:
        link._connection._writer.transport.abort()

    async def ask() -> None:
        async with FakeWorker(redis_url), Bus(redis_url) as bus:
            pbx = bus.server("pbx1")
            for _ in range(2):
                assert (await pbx.request("Ping", timeout=60)).is_done
                reset(bus._pipeline._link)
                assert await bus.time()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask())


async def test_a_restart_of_redis_is_survived(own_redis: RedisServer) -> None:
    async def patiently(worker: FakeWorker, request: Request) -> None:
        await back.wait()
        while True:
            try:
                await worker.settle(request)
                return
            except redis.RedisError:
                continue

    back = asyncio.Event()
    async with FakeWorker(own_redis.url) as worker, Bus(own_redis.url) as bus:
        worker.on("Slow", patiently)
        pbx = bus.server("pbx1")
        waiting = asyncio.create_task(pbx.request("Slow"))
        await until(lambda: worker.taken)
        own_redis.kill()
        meanwhile = asyncio.create_task(pbx.request("Ping", action_id="during"))
        await asyncio.to_thread(own_redis.start)
        back.set()
        async with asyncio.timeout(60):
            assert (await waiting).is_done
            assert (await meanwhile).is_done


@pytest.mark.usefixtures("no_looking")
async def test_a_lost_reply_to_xadd_is_repeated_with_the_same_action_id(
    worker: FakeWorker, redis_server: RedisServer
) -> None:
    runs: list[str] = []

    async def answer(worker: FakeWorker, request: Request) -> None:
        runs.append(request.action_id)
        await worker.settle(request)

    worker.on("Originate", answer)
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        proxy.losses = [b"XADD", b"XADD"]
        result = await bus.server("pbx1").request("Originate", timeout=60, Channel="Local/1")
    assert result.is_done
    assert worker.entries_of(result.action_id) == 3
    assert runs == [result.action_id]
    assert result.entry == worker.taken[0].entry


@pytest.mark.usefixtures("no_looking")
async def test_a_result_may_come_before_the_reply_to_xadd(
    worker: FakeWorker, redis_server: RedisServer, admin: redis.Redis
) -> None:
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        proxy.held = b"XADD"
        waiting = asyncio.create_task(bus.server("pbx1").request("Ping"))
        await until(lambda: admin.xlen(KEYS.results) == 1)
        pending = bus.server("pbx1")._submissions._by_id
        await until(lambda: [s for same in pending.values() for s in same if s._early])
        assert not waiting.done()
        proxy.release()
        async with asyncio.timeout(60):
            assert (await waiting).is_done


@pytest.mark.usefixtures("no_looking")
async def test_the_first_entrys_result_may_come_before_the_reply_to_a_repeated_xadd(
    worker: FakeWorker, pbx: Server, redis_server: RedisServer
) -> None:
    first = await pbx.request("Originate", action_id="x1", timeout=60, Channel="Local/1")
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        proxy.held = b"XADD"
        waiting = asyncio.create_task(bus.server("pbx1").request("Originate", action_id="x1", Channel="Local/1"))
        pending = bus.server("pbx1")._submissions._by_id
        await until(lambda: [s for same in pending.values() for s in same if s._early])
        proxy.release()
        async with asyncio.timeout(60):
            assert await waiting == first


async def test_one_impatient_caller_does_not_end_what_others_wait_for(
    worker: FakeWorker, redis_server: RedisServer
) -> None:
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        proxy.messages_held = True
        pbx = bus.server("pbx1")
        impatient = asyncio.create_task(pbx.request("Ping", timeout=0.2))
        patient = asyncio.create_task(pbx.request("Ping", timeout=60))
        with pytest.raises(BusUnavailable):
            await impatient
        proxy.release()
        assert (await patient).is_done
    assert len(worker.taken) == 1


def test_a_silent_redis_is_told_from_one_that_refuses() -> None:
    address = Address("redis://127.0.0.1:1")
    assert str(translated(TimeoutError(), address, "PING")).endswith("cannot be reached: no answer in time")
    assert str(translated(OSError(111, "refused"), address, "PING")).endswith("cannot be reached: [Errno 111] refused")


async def test_redis_away_is_said_after_a_few_attempts(own_redis: RedisServer) -> None:
    async with Bus(own_redis.url) as bus:
        own_redis.kill()
        with pytest.raises(BusUnavailable, match="cannot be reached"):
            await bus.server("pbx1").request("Ping")
    with pytest.raises(BusUnavailable, match="cannot be reached"):
        async with Bus(own_redis.url):
            pytest.fail("connected to nothing")


async def test_a_short_patience_while_redis_is_away(own_redis: RedisServer) -> None:
    async with Bus(own_redis.url) as bus:
        own_redis.kill()
        with pytest.raises(BusUnavailable, match=r"within 0\.2 s; repeat it with the same ActionID, x1"):
            await bus.server("pbx1").request("Ping", timeout=0.2, action_id="x1")


async def test_what_a_long_script_holds_up_is_waited_for(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refusals(pipeline_module, monkeypatch)
    async with Bus(own_redis.url) as bus:
        async with long_script(own_redis):
            waiting = asyncio.create_task(bus.time())
            await until(lambda: refused)
        async with asyncio.timeout(60):
            assert await waiting


async def test_a_primary_whose_replicas_are_not_there_yet_is_waited_for(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refusals(pipeline_module, monkeypatch)
    async with FakeWorker(own_redis.url), Bus(own_redis.url) as bus:
        with own_redis.client() as admin:
            admin.config_set("min-replicas-to-write", 1)
            waiting = asyncio.create_task(bus.server("pbx1").request("Ping", timeout=60))
            await until(lambda: refused)
            admin.config_set("min-replicas-to-write", 0)
        assert (await waiting).is_done


@pytest.mark.usefixtures("no_looking")
async def test_a_channel_is_subscribed_again_after_a_long_script(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[link_module.Link] = []
    open_link = link_module.Link.open

    async def noted(self: link_module.Link) -> link_module.Link:
        links.append(self)
        return await open_link(self)

    refused = refusals(dispatcher_module, monkeypatch)
    async with FakeWorker(own_redis.url), Bus(own_redis.url) as bus:
        pbx = bus.server("pbx1")
        monkeypatch.setattr(link_module.Link, "open", noted)
        assert (await pbx.request("Ping", timeout=60)).is_done
        [of_dispatcher] = links
        async with long_script(own_redis):
            await of_dispatcher.close()
            await until(lambda: refused)
        async with asyncio.timeout(60):
            assert (await pbx.request("Ping")).is_done


@pytest.mark.usefixtures("no_looking")
async def test_a_script_that_does_not_end_is_said(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "ATTEMPTS", 2)
    async with Bus(own_redis.url) as bus, long_script(own_redis):
        with pytest.raises(BusUnavailable, match="BUSY"):
            await bus._dispatcher.subscribe("any", bus.server("pbx1")._submissions)


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.MasterDownError("Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
        redis.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
        redis.ResponseError("BUSY Redis is busy running a script."),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
    ],
)
def test_what_passes_is_told_whether_or_not_redis_py_keeps_the_code(error: redis.RedisError) -> None:
    assert is_transient(error)


async def test_a_silent_redis_is_noticed_and_waited_for(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "PROBE_S", 0.2)
    monkeypatch.setattr(link_module.Link.execute, "__defaults__", (2.0,))
    async with FakeWorker(own_redis.url) as worker, Bus(own_redis.url) as bus:
        pbx = bus.server("pbx1")
        assert (await pbx.request("Ping", timeout=60)).is_done
        own_redis.send(signal.SIGSTOP)
        try:
            waiting = asyncio.create_task(pbx.request("Ping", timeout=60))
            await until(lambda: bus._dispatcher._online is False)
        finally:
            own_redis.send(signal.SIGCONT)
        assert (await waiting).is_done
        assert worker.entries_of((await waiting).action_id) >= 1


@pytest.mark.usefixtures("no_looking")
async def test_the_same_action_id_for_the_same_action_has_one_result(worker: FakeWorker, pbx: Server) -> None:
    first, second = await asyncio.gather(
        *(pbx.request("Originate", action_id="call-1", timeout=60, Channel="Local/1") for _ in range(2))
    )
    again = await pbx.request("Originate", action_id="call-1", timeout=60, Channel="Local/1")
    assert first == second == again
    assert worker.entries_of("call-1") == 3


async def test_the_same_action_id_for_another_action_settles_only_that_one(worker: FakeWorker, pbx: Server) -> None:
    go = asyncio.Event()

    async def answer(worker: FakeWorker, request: Request) -> None:
        await go.wait()
        await worker.settle(request)

    worker.on("Originate", answer)
    first = asyncio.create_task(pbx.request("Originate", action_id="call-1", timeout=60, Channel="Local/1"))
    await until(lambda: worker.taken)
    with pytest.raises(ActionRejected) as raised:
        await pbx.request("Originate", action_id="call-1", timeout=60, Channel="Local/2")
    assert raised.value.code == "action-id-reused"
    assert not first.done()
    go.set()
    assert (await first).is_done


async def test_the_fingerprint_is_the_one_of_the_contract(pbx: Server, worker: FakeWorker) -> None:
    call = await pbx.submit("Originate", Channel="Local/1", Variable=["b=1", "a=2"], tag="t", headers={"X-Ü"[:2]: "é"})
    await call.result(timeout=60)
    request = worker.taken[0]
    assert call._submission.fingerprint == request.fingerprint == fingerprint(request.action, request.pairs)


async def test_a_message_of_somebody_elses_stops_nothing(
    worker: FakeWorker, bus: Bus, pbx: Server, admin: redis.Redis
) -> None:
    await pbx.request("Ping", timeout=60)
    admin.publish(KEYS.reply(bus._reply), b"\xc1 not msgpack")
    assert (await pbx.request("Ping", timeout=60)).is_done


async def test_closing_the_bus_ends_all_waiting(worker: FakeWorker, redis_url: str) -> None:
    async def never(worker: FakeWorker, request: Request) -> None:
        pass

    worker.on("Wait", never)
    async with Bus(redis_url) as bus:
        pbx = bus.server("pbx1")
        waiting = asyncio.create_task(pbx.request("Wait"))
        call = await pbx.submit("Wait")
        reading = asyncio.create_task(collected(call))
        listening = asyncio.create_task(anext(pbx.events()))
        await until(lambda: len(worker.taken) == 2)
    for task in (waiting, reading, listening):
        with pytest.raises(BusUnavailable, match="closed"):
            await task
    with pytest.raises(BusUnavailable, match="closed"):
        await pbx.request("Ping")
    await bus.close()


async def test_closing_the_bus_ends_a_first_request_that_is_not_heard_yet(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as proxy:
        bus = Bus(proxy.url)
        pbx = bus.server("pbx1")
        proxy.messages_held = True
        waiting = [asyncio.create_task(pbx.request("Ping")), asyncio.create_task(pbx.submit("Ping"))]
        await until(lambda: proxy.holding)
        await bus.close()
        for task in waiting:
            with pytest.raises(BusUnavailable, match="closed"):
                await task
        assert own_tasks() == []


async def test_a_caller_cancelled_before_it_is_heard_is_cancelled(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        proxy.messages_held = True
        waiting = asyncio.create_task(bus.server("pbx1").request("Ping"))
        await until(lambda: proxy.holding)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize("used_before", [False, True])
async def test_a_closed_bus_begins_nothing_anew(worker: FakeWorker, redis_url: str, used_before: bool) -> None:
    async with Bus(redis_url) as bus:
        pbx = bus.server("pbx1")
        if used_before:
            await pbx.request("Ping", timeout=60)
    for attempt in (pbx.request("Ping"), pbx.submit("Ping"), pbx.follow("u1"), bus.server("pbx2").request("Ping")):
        with pytest.raises(BusUnavailable, match="closed"):
            await attempt
    assert own_tasks() == []
    assert bus._dispatcher.subscriptions == 0


async def test_a_server_that_is_first_named_while_the_bus_closes(worker: FakeWorker, redis_url: str) -> None:
    async def never(worker: FakeWorker, request: Request) -> None:
        pass

    worker.on("Wait", never)
    bus = Bus(redis_url)
    waiting = [asyncio.create_task(bus.server(name).request("Wait")) for name in ("pbx1", "pbx2", "pbx3")]
    await until(lambda: worker.taken and all(bus._servers[name]._submissions for name in ("pbx1", "pbx2", "pbx3")))
    closing = asyncio.create_task(bus.close())
    number = 3
    while not closing.done():
        number += 1
        waiting.append(asyncio.create_task(bus.server(f"pbx{number}").request("Wait")))
        waiting.append(asyncio.create_task(bus.server("pbx1").request("Wait")))
        await asyncio.sleep(0)
    await closing
    async with asyncio.timeout(60):
        for task in waiting:
            with pytest.raises(BusUnavailable, match="closed"):
                await task
    assert own_tasks() == []
    assert bus._dispatcher.subscriptions == 0


# Calls


async def whole_call(worker: FakeWorker, request: Request) -> None:
    ours = request.action_id
    await worker.update(request, call="dialing")
    await worker.event("Newchannel", ours, headers={"Channel": "Local/1;1"})
    await worker.event("Newchannel", "another")
    await worker.event("Newchannel", ours, headers={"Channel": "Local/1;2"})
    await worker.respond(request, ("Response", "Success"), ("Message", "Originate successfully queued"))
    await worker.settle(request, call="up")
    await worker.event("Hangup", ours, headers={"Channel": "Local/1;2"})
    await worker.event("Hangup", ours, headers={"Channel": "Local/1;1"}, then={"call": "ended"})
    await worker.event("Newchannel", "another")


WHOLE_CALL = ["Newchannel", "Newchannel", "Hangup", "Hangup"]


async def test_a_call_is_followed_to_its_last_hangup(worker: FakeWorker, bus: Bus, pbx: Server) -> None:
    worker.on("Originate", whole_call)
    call = await pbx.submit("Originate", Channel="Local/1", action_id="c1", timeout=60)
    events = await collected(call)
    assert [event.name for event in events] == WHOLE_CALL
    assert [event.seq for event in events] == [1, 3, 4, 5]
    assert all(event.action_ids == ["c1"] for event in events)
    assert (await call.result(timeout=60)).is_done
    assert call.response is not None
    assert call.response.headers["Message"] == "Originate successfully queued"
    assert bus._dispatcher.subscriptions == 1
    assert await collected(call) == []


@pytest.mark.usefixtures("no_looking")
async def test_the_end_of_a_call_is_noticed_by_its_last_hangup(worker: FakeWorker, pbx: Server) -> None:
    worker.on("Originate", whole_call)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    await call.result(timeout=60)
    assert [event.name for event in await collected(call)] == WHOLE_CALL


async def test_events_on_their_way_when_the_record_says_ended_are_waited_for(
    worker: FakeWorker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await go.wait()
        await whole_call(worker, request)
        ended.set()

    go, ended = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(call_module, "LOOK_S", 0.05)
    worker.on("Originate", answer)
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        call = await bus.server("pbx1").submit("Originate", Channel="Local/1", timeout=60)
        proxy.messages_held = True
        go.set()
        await ended.wait()
        reading = asyncio.create_task(collected(call))
        await until(lambda: reading.done() or any(e.barrier for e in bus._dispatcher._expected))
        proxy.release()
        assert [event.name for event in await reading] == WHOLE_CALL


@pytest.mark.usefixtures("no_looking")
async def test_a_look_that_the_result_overtakes_does_not_end_a_call(
    worker: FakeWorker, redis_server: RedisServer
) -> None:
    """The record was read before it was there, and the reply came after the result: it had not expired."""

    async def answer(worker: FakeWorker, request: Request) -> None:
        await taken_up.wait()
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id)
        await hung_up.wait()
        await worker.event("Hangup", request.action_id, then={"call": "ended"})

    taken_up, hung_up = asyncio.Event(), asyncio.Event()
    worker.on("Originate", answer)
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        call = await bus.server("pbx1").submit("Originate", Channel="Local/1", timeout=60)
        proxy.held = b"HGETALL"
        events = call.events()
        first = asyncio.create_task(anext(events))
        await until(lambda: proxy.holding)
        taken_up.set()
        await call.result(timeout=60)
        proxy.release()
        async with asyncio.timeout(60):
            assert (await first).name == "Newchannel"
            hung_up.set()
            assert [event.name async for event in events] == ["Hangup"]


async def test_many_calls_at_once(worker: FakeWorker, bus: Bus, pbx: Server) -> None:
    worker.on("Originate", whole_call)

    async def one() -> list[str]:
        async with await pbx.submit("Originate", Channel="Local/1", timeout=60) as call:
            return [event.name for event in await collected(call)]

    assert await asyncio.gather(*(one() for _ in range(50))) == [WHOLE_CALL] * 50
    assert bus._dispatcher.subscriptions == 1


@pytest.mark.parametrize("state", [State.REJECTED, State.EXPIRED, State.CANCELLED, State.FAILED, State.UNKNOWN])
async def test_an_originate_without_a_call_is_over_with_its_result(
    worker: FakeWorker, pbx: Server, state: State
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, state, code="x")

    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    assert await collected(call) == []
    assert (await call.result(timeout=60, raise_on_failure=False)).state is state


async def test_a_failed_call_is_followed_to_its_hangup(worker: FakeWorker, pbx: Server) -> None:
    ended = asyncio.Event()

    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, State.FAILED, code="originate-failed", call="dialing")
        await ended.wait()
        await worker.event("Hangup", request.action_id, then={"call": "ended"})

    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    with pytest.raises(ActionFailed):
        await call.result(timeout=60)
    reading = asyncio.create_task(collected(call))
    ended.set()
    assert [event.name for event in await reading] == ["Hangup"]


async def test_an_action_without_a_call_is_over_with_its_result(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.event("FAXSession", request.action_id)
        await worker.settle(request)

    worker.on("FAXSession", answer)
    call = await pbx.submit("FAXSession", timeout=60)
    assert [event.name for event in await collected(call)] == ["FAXSession"]


@pytest.mark.usefixtures("no_looking")
async def test_events_missed_in_an_interruption_are_caught_up_with(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    steps = [asyncio.Event() for _ in range(2)]

    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id)
        await steps[0].wait()
        for _ in range(5):
            await worker.event("Newexten", "another")
            await worker.event("Newexten", request.action_id, say=False)
        admin.client_kill_filter(_type="pubsub")
        await steps[1].wait()
        await worker.event("Hangup", request.action_id, then={"call": "ended"})

    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    seen: list[BusEvent] = []
    async with asyncio.timeout(60):
        async for event in call.events():
            seen.append(event)
            if len(seen) == 1:
                steps[0].set()
            if len(seen) == 6:
                steps[1].set()
    assert [event.name for event in seen] == ["Newchannel", *["Newexten"] * 5, "Hangup"]
    assert [event.seq for event in seen] == sorted({event.seq for event in seen})


@pytest.mark.usefixtures("no_looking")
async def test_the_end_missed_in_an_interruption_is_noticed(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id)
        await go.wait()
        await worker.event("Hangup", request.action_id, say=False, then={"call": "ended"})
        admin.client_kill_filter(_type="pubsub")

    go = asyncio.Event()
    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    async with asyncio.timeout(60):
        names = []
        async for event in call.events():
            names.append(event.name)
            go.set()
    assert names == ["Newchannel", "Hangup"]


@pytest.mark.usefixtures("no_looking")
async def test_catching_up_is_repeated_if_it_is_interrupted_itself(
    worker: FakeWorker, redis_server: RedisServer, admin: redis.Redis
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id, say=False)
        await worker.event("Hangup", request.action_id, say=False, then={"call": "ended"})
        admin.client_kill_filter(_type="pubsub")

    worker.on("Originate", answer)
    async with Proxy(redis_server.port) as proxy, Bus(proxy.url) as bus:
        proxy.losses = [b"XRANGE", b"XRANGE"]
        call = await bus.server("pbx1").submit("Originate", Channel="Local/1", timeout=60)
        assert [event.name for event in await collected(call)] == ["Newchannel", "Hangup"]
        assert proxy.losses == []


async def test_the_end_whose_message_was_lost_is_read_from_the_record(
    worker: FakeWorker, pbx: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await go.wait()
        await worker.update(request, state="done", call="ended")

    go = asyncio.Event()
    monkeypatch.setattr(call_module, "LOOK_S", 0.1)
    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    reading = asyncio.create_task(collected(call))
    await call.result(timeout=60)
    go.set()
    assert await reading == []


async def test_a_slow_reader_catches_up_from_the_stream(
    worker: FakeWorker, pbx: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "MAX_QUEUED", 10)
    monkeypatch.setattr(call_module, "PAGE", 7)

    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        for _ in range(50):
            await worker.event("Newexten", request.action_id)
            await worker.event("Newexten", "another")
        await worker.event("Hangup", request.action_id, then={"call": "ended"})
        written.set()

    written = asyncio.Event()
    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    await written.wait()
    await call._reader._dispatcher.barrier()
    assert len(call._reader._queue) <= 10
    events = await collected(call)
    assert [event.seq for event in events] == [*range(1, 100, 2), 101]
    assert not any(event.name == "BusGap" for event in events)


async def test_catching_up_with_a_trimmed_stream_says_so(worker: FakeWorker, pbx: Server, admin: redis.Redis) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id)
        await go.wait()
        for _ in range(9):
            await worker.event("Newexten", request.action_id, say=False)
        await worker.event("Hangup", request.action_id, say=False, then={"call": "ended"})
        admin.xtrim(KEYS.events, maxlen=2, approximate=False)
        admin.client_kill_filter(_type="pubsub")

    go = asyncio.Event()
    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    seen = []
    async with asyncio.timeout(60):
        async for event in call.events():
            seen.append((event.name, event.seq))
            go.set()
            if event.name == "BusGap":
                assert event.headers["reason"] == "trimmed"
                assert event.headers["dropped"] == "8"
    assert seen == [("Newchannel", 1), ("BusGap", 9), ("Newexten", 10), ("Hangup", 11)]


async def test_an_action_submitted_again_is_followed_from_its_beginning(worker: FakeWorker, redis_url: str) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, call="up")
        await worker.event("Newchannel", request.action_id)
        await go.wait()
        await worker.event("Hangup", request.action_id, then={"call": "ended"})

    go = asyncio.Event()
    worker.on("Originate", answer)
    async with Bus(redis_url) as first:
        await first.server("pbx1").request("Originate", action_id="c1", timeout=60, Channel="Local/1")
        await until(lambda: worker.seq == 1)
    async with Bus(redis_url) as second:
        call = await second.server("pbx1").submit("Originate", action_id="c1", timeout=60, Channel="Local/1")
        names = []
        async with asyncio.timeout(60):
            async for event in call.events():
                names.append(event.name)
                go.set()
        assert names == ["Newchannel", "Hangup"]
        assert (await call.result(timeout=60)).is_done


async def test_a_revision_whose_message_was_lost_is_read_from_the_record(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, State.UNKNOWN, code="timeout")
        await go.wait()
        await worker.settle(request, State.DONE, revised=True, say=False)
        admin.client_kill_filter(_type="pubsub")

    async def corrected() -> bool:
        return (await call.result(raise_on_failure=False)).revised

    go = asyncio.Event()
    worker.on("Setvar", answer)
    call = await pbx.submit("Setvar", timeout=60)
    with pytest.raises(ActionUnknown):
        await call.result(timeout=60)
    go.set()
    await until(corrected)
    assert (await call.result()).is_done


async def test_a_revised_result_is_the_one_that_counts(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.settle(request, State.UNKNOWN, code="timeout", call="dialing")
        await go.wait()
        await worker.settle(request, State.DONE, revised=True, call="up")
        await worker.event("Hangup", request.action_id, then={"call": "ended"})

    go = asyncio.Event()
    worker.on("Originate", answer)
    call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    with pytest.raises(ActionUnknown):
        await call.result(timeout=60)
    go.set()
    assert [event.name for event in await collected(call)] == ["Hangup"]
    result = await call.result()
    assert result.revised
    assert result.is_done


async def test_a_call_that_nobody_holds_is_unsubscribed(worker: FakeWorker, bus: Bus, pbx: Server) -> None:
    async def never(worker: FakeWorker, request: Request) -> None:
        pass

    worker.on("Originate", never)
    for _ in range(20):
        await pbx.submit("Originate", Channel="Local/1", timeout=60)
    kept = await pbx.submit("Originate", Channel="Local/1", timeout=60)
    gc.collect()
    await until(lambda: bus._dispatcher.subscriptions == 2)
    assert len(pbx._submissions) == 1

    async def channels() -> bool:
        return len(await worker.redis.pubsub_channels("ami:*")) == 2

    await until(channels)
    kept.close()
    assert bus._dispatcher.subscriptions == 1


async def test_a_closed_call_ends_its_iteration_and_still_has_its_result(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await go.wait()
        await worker.settle(request)

    go = asyncio.Event()
    worker.on("Originate", answer)
    async with await pbx.submit("Originate", Channel="Local/1", timeout=60) as call:
        reading = asyncio.create_task(collected(call))
        await until(lambda: worker.taken)
    assert await reading == []
    go.set()
    assert (await call.result(timeout=60)).is_done
    with pytest.raises(ResultTimeout):
        await (await pbx.submit("Originate", action_id="never", urgent=True, Channel="x")).result(timeout=0)


# The events stream


async def test_events_since_the_beginning_and_since_an_id(worker: FakeWorker, pbx: Server) -> None:
    ids = [await worker.event(name, headers={"Channel": name}) for name in ("Newchannel", "Dial", "Hangup")]
    events = await taken(pbx.events(since="0"), 3)
    assert [event.name for event in events] == ["Newchannel", "Dial", "Hangup"]
    assert [event.id for event in events] == ids
    assert events[0].headers["Channel"] == "Newchannel"
    [after] = await taken(pbx.events(since=ids[1]), 1)
    assert after.name == "Hangup"
    [filtered] = await taken(pbx.events("Hangup", "Nothing", since="0"), 1)
    assert filtered.seq == 3


async def test_events_from_now_on_begin_with_the_call_itself(worker: FakeWorker, pbx: Server) -> None:
    async def answer(worker: FakeWorker, request: Request) -> None:
        await worker.event("After")
        await worker.settle(request)

    worker.on("Ping", answer)
    await worker.event("Before")
    events = pbx.events()
    await pbx.request("Ping", timeout=60)
    [event] = await taken(events, 1)
    assert event.name == "After"


async def test_events_of_an_empty_stream(worker: FakeWorker, pbx: Server) -> None:
    events = pbx.events(since="$")
    reading = asyncio.create_task(anext(events))
    await worker.event("First")
    assert (await reading).name == "First"
    await events.aclose()


async def test_events_are_all_read_whatever_happens_to_the_connection(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    async def produce() -> None:
        for number in range(400):
            await worker.event("Even" if number % 2 else "Odd")

    producing = asyncio.create_task(produce())
    seen: list[int] = []
    async with asyncio.timeout(60):
        async for event in pbx.events(since="0"):
            assert event.name != "BusGap"
            seen.append(event.seq)
            if len(seen) == 400:
                break
            if len(seen) % 50 == 0:
                for client_id in client_connections(admin):
                    admin.client_kill_filter(_id=client_id)
    await producing
    assert seen == list(range(1, 401))


async def test_events_after_a_restart_go_on_where_they_were(own_redis: RedisServer) -> None:
    async with FakeWorker(own_redis.url) as worker, Bus(own_redis.url) as bus:
        first = await worker.event("First")
        events = bus.server("pbx1").events("First", "Second", since="0")
        assert (await anext(events)).id == first
        reading = asyncio.create_task(anext(events))
        own_redis.kill()
        await asyncio.to_thread(own_redis.start)

        async def written() -> bool:
            try:
                await worker.event("Second")
            except redis.RedisError:
                return False
            return True

        await until(written)
        async with asyncio.timeout(60):
            assert (await reading).name == "Second"
        await events.aclose()


async def test_events_of_a_quiet_server_outlast_a_restart_in_their_first_seconds(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream_module, "ATTEMPTS", 1)
    async with FakeWorker(own_redis.url) as worker, Bus(own_redis.url) as bus:
        events = bus.server("pbx1").events(since="0")
        reading = asyncio.create_task(anext(events))
        with own_redis.client() as admin:
            await until(lambda: any("b" in client["flags"] for client in admin.client_list()))
        own_redis.kill()
        await asyncio.to_thread(own_redis.start)

        async def written() -> bool:
            try:
                await worker.event("First")
            except redis.RedisError:
                return False
            return True

        await until(written)
        async with asyncio.timeout(60):
            assert (await reading).name == "First"
        await events.aclose()


@pytest.mark.parametrize("names", [(), ("Wanted",)])
async def test_a_reader_overtaken_by_trimming_is_told(
    worker: FakeWorker, pbx: Server, admin: redis.Redis, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream_module, "PAGE", 2)
    for _ in range(2):
        await worker.event("Wanted")
    events = pbx.events(*names, since="0")
    assert [event.seq for event in await taken(events, 2, close=False)] == [1, 2]
    for _ in range(8):
        await worker.event("Other")
    await worker.event("Wanted")
    admin.xtrim(KEYS.events, maxlen=3, approximate=False)
    gap = await anext(events)
    assert (gap.name, gap.headers["reason"], gap.headers["dropped"]) == ("BusGap", "trimmed", "6")
    last = [event for event in await taken(events, 1 if names else 3) if event.name == "Wanted"]
    assert [event.seq for event in last] == [11]


async def test_reading_on_from_an_entry_that_is_gone_is_told(
    worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    ids = [await worker.event("Any") for _ in range(5)]
    admin.xtrim(KEYS.events, maxlen=2, approximate=False)
    gap, event = await taken(pbx.events(since=ids[0]), 2)
    assert gap.name == "BusGap"
    assert gap.headers["dropped"] == "", "nobody can say how many"
    assert event.id == ids[3]
    assert (await taken(pbx.events(since=ids[3]), 1))[0].id == ids[4]


async def test_a_place_that_is_none_is_refused(pbx: Server) -> None:
    for since in ("now", "1-2-3", "", "-"):
        with pytest.raises(SettingsError, match="neither"):
            pbx.events(since=since)


def test_a_new_epoch_is_no_gap() -> None:
    event = BusEvent("pbx1", "Any", Headers([]), [], 2, 1)
    assert gap_before(event, (1, 900)) is None
    assert gap_before(event, None) is None
    assert gap_before(BusEvent("pbx1", "Any", Headers([]), [], 1, 902), (1, 900)) is not None
    forgotten = BusEvent("pbx1", "BusGap", Headers([("reason", "forgotten")]), [], 1, 902)
    assert gap_before(forgotten, (1, 900)) is None, "it says so itself"


# Records, status, settings, rights


async def test_the_record_is_read(worker: FakeWorker, pbx: Server) -> None:
    assert await pbx.action_record("r1") is None
    await pbx.request("Originate", action_id="r1", timeout=60, tag="t", Channel="Local/1", Variable=["a=1", "b=2"])
    record = await pbx.action_record("r1")
    assert record is not None
    assert record.state is State.DONE
    assert record.is_final
    assert record.get("tag") == "t"
    assert record.entry == worker.taken[0].entry
    assert record.result is not None
    assert record.result.is_done
    assert record.request is not None
    assert record.request.get_all("Variable") == ["a=1", "b=2"]


async def test_the_time_is_redis_own(bus: Bus, admin: redis.Redis) -> None:
    before, asked, after = admin.time(), await bus.time(), admin.time()
    assert before[0] + before[1] / 1e6 <= asked <= after[0] + after[1] / 1e6


async def test_status_and_servers(worker: FakeWorker, bus: Bus, pbx: Server, admin: redis.Redis) -> None:
    assert await pbx.status() == {}
    assert await bus.servers() == {}
    admin.hset(KEYS.worker, mapping={"state": "connected", "pid": "7"})
    admin.zadd("ami:servers", {"pbx1": 12.5})
    assert await pbx.status() == {"state": "connected", "pid": "7"}
    assert await bus.servers() == {"pbx1": 12.5}


def test_no_secret_is_shown() -> None:
    bus = Bus("rediss://crm:geheim@db.example:6380/2?ssl_password=geheim", prefix="x")
    assert repr(bus) == "<Bus rediss://crm:***@db.example:6380/2 prefix=x>"
    with pytest.raises(SettingsError) as raised:
        Bus("redis://crm:geheim@db.example:port/0")
    assert "geheim" not in str(raised.value)
    assert raised.value.__cause__ is None
    with pytest.raises(SettingsError, match="one of the following schemes"):
        Bus("http://crm:geheim@db.example")
    with pytest.raises(SettingsError, match="prefix"):
        Bus("redis://localhost", prefix="{x}")
    with pytest.raises(SettingsError, match="server name"):
        bus.server("a b")


PRODUCER_RULES = [
    "reset", "on", ">geheim", "resetchannels", "+xadd", "+xlen", "+subscribe", "+hgetall", "+time", "+ping", "+hello",
    "%W~ami:{pbx1}:actions", "%W~ami:{pbx1}:actions:urgent", "%R~ami:{pbx1}:action:*",
    "&ami:{pbx1}:action:*", "&ami:{pbx1}:reply:*",
]  # fmt: skip


async def test_a_producer_with_narrow_rights_can_do_its_work(own_redis: RedisServer) -> None:
    async with FakeWorker(own_redis.url) as worker:
        worker.on("Originate", whole_call)
        url = as_user(own_redis, PRODUCER_RULES)
        async with Bus(url) as bus:
            pbx = bus.server("pbx1")
            assert (await pbx.request("Ping", timeout=60)).is_done
            call = await pbx.submit("Originate", Channel="Local/1", timeout=60)
            assert [event.name for event in await collected(call)] == WHOLE_CALL
            with pytest.raises(BusUnavailable, match=r"'crm'.*NOPERM|'crm'.*no permissions"):
                await anext(pbx.events(since="0"))
            with pytest.raises(BusUnavailable, match="does not let user 'crm' run SUBSCRIBE"):
                await bus.server("pbx2").request("Ping", timeout=60)


@pytest.mark.usefixtures("quick_looks")
async def test_a_producer_that_may_not_look_for_its_entry_waits_for_its_deadline(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission_module, "EXPIRY_S", 0.2)
    async with Bus(as_user(own_redis, PRODUCER_RULES)) as bus:
        waiting = asyncio.create_task(bus.server("pbx1").request("Originate", Channel="Local/1", deadline="+1"))
        with own_redis.client() as admin:
            await until(lambda: admin.xlen(KEYS.actions) == 1)
            [(entry, _)] = entries(admin, KEYS.actions)
            admin.xdel(KEYS.actions, entry)
            with pytest.raises(ActionUnknown, match="this user may not look") as raised:
                await waiting
            assert raised.value.code == "entry-lost"
            seconds, microseconds = admin.time()
            assert seconds + microseconds / 1e6 > int(entry.split("-")[0]) / 1000 + 1
            asked: Any = admin.info("commandstats")
            assert asked["cmdstat_xrange"]["rejected_calls"] == 1, "what is refused is not asked for again"


async def test_missing_rights_are_said_at_once(own_redis: RedisServer) -> None:
    for missing, what in (("+xadd", "XADD"), ("+hgetall", "HGETALL"), ("+subscribe", "SUBSCRIBE")):
        async with Bus(as_user(own_redis, [rule for rule in PRODUCER_RULES if rule != missing])) as bus:
            with pytest.raises(BusUnavailable, match=f"does not let user 'crm' run {what}"):
                await bus.server("pbx1").request("Ping")


async def test_a_wrong_password_is_said_at_once(own_redis: RedisServer) -> None:
    url = as_user(own_redis, PRODUCER_RULES).replace("geheim", "falsch")
    with pytest.raises(BusUnavailable, match="refused the login of user 'crm'") as raised:
        async with Bus(url):
            pytest.fail("logged in with a wrong password")
    assert "falsch" not in str(raised.value)


async def test_a_full_redis_is_said(own_redis: RedisServer) -> None:
    with own_redis.client() as admin:
        admin.config_set("maxmemory", "1mb")
        admin.config_set("maxmemory", "1")
    async with Bus(own_redis.url) as bus:
        with pytest.raises(BusUnavailable, match="out of memory"):
            await bus.server("pbx1").request("Ping")


# Helpers


def client_connections(admin: redis.Redis) -> list[str]:
    """The ids of the client's own connections."""
    own = str(admin.client_id())
    return [c["id"] for c in admin.client_list() if c["name"] != NAME and c["id"] != own and c["user"] != ""]


def own_tasks() -> list[str]:
    """The names of the client's tasks."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("amibus ")]


def refusals(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What Redis has refused, as the module sees it, from now on."""
    found: list[Exception] = []

    def noted(error: Any, address: Address, what: str) -> BusUnavailable:
        found.append(error)
        return translated(error, address, what)

    monkeypatch.setattr(module, "translated", noted)
    return found


@contextlib.asynccontextmanager
async def long_script(server: RedisServer) -> AsyncIterator[None]:
    """While it runs Redis refuses everything."""
    with server.client() as other, server.client() as admin:
        admin.config_set("lua-time-limit", 1)

        def loop() -> None:
            with pytest.raises(redis.ResponseError, match="killed"):
                other.eval("while true do end", 0)

        def is_busy() -> bool:
            try:
                admin.ping()
            except redis.ResponseError as error:
                return str(error).startswith("BUSY")
            return False

        running = asyncio.create_task(asyncio.to_thread(loop))
        try:
            await until(is_busy)
            yield
        finally:
            await asyncio.to_thread(admin.script_kill)
            await running


def entries(admin: redis.Redis, stream: str) -> list[Any]:
    """What is in a stream."""
    found: Any = admin.xrange(stream)
    return list(found)


def as_user(server: RedisServer, rules: list[str]) -> str:
    """Create the user `crm` and return its URL."""
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "crm", *rules)
    return server.url.replace("redis://", "redis://crm:geheim@")


async def collected(call: Call, deadline_s: float = 60.0) -> list[BusEvent]:
    """All events of a call."""
    async with asyncio.timeout(deadline_s):
        return [event async for event in call.events()]


async def taken(events: Any, count: int, *, close: bool = True) -> list[BusEvent]:
    """The first events of a stream."""
    found: list[BusEvent] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found.append(await anext(events))
    if close:
        await events.aclose()
    return found
