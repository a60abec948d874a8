"""What a client hears of a call, its own or one that it follows, against real Redis and Valkey."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
import redis

from broker import (
    ActionFailed,
    ActionRejected,
    ActionUnknown,
    Bus,
    BusUnavailable,
    Call,
    Disposition,
    ErrorCode,
    FollowedCall,
    ResultTimeout,
    Server,
    State,
)
from broker import call_events as call_events_module
from broker import follow as follow_module
from broker.ami import Headers
from broker.call_events import ActionReader
from broker.entry import Request
from tests.bus_side import FakeWorker, until

WAIT_S = 60.0
TARGET = "1700000000.1"

pytestmark = pytest.mark.usefixtures("no_looking")


def told(request: Request, response: str, reason: str) -> list[Headers]:
    pairs = [("Event", "OriginateResponse"), ("ActionID", request.action_id), ("Response", response)]
    return [Headers([*pairs, ("Reason", reason)])]


class Stage:
    """A worker that plays a call of two legs, step by step."""

    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker
        self.request: Request | None = None
        self.placed = asyncio.Event()
        worker.on("Originate", self._place)

    async def _place(self, _: FakeWorker, request: Request) -> None:
        self.request = request
        self.placed.set()

    async def say(self, name: str, say: bool = True, then: dict[str, str] | None = None, **headers: str) -> None:
        """One event of the call; without `say` its message is lost."""
        await self.placed.wait()
        assert self.request is not None
        await self.worker.event(name, self.request.action_id, headers=headers, say=say, then=then)

    async def begin(self, uniqueid: str) -> None:
        for leg in (uniqueid, f"{uniqueid};2"):
            await self.say("Newchannel", Uniqueid=leg, Channel=f"Local/{leg}", ChannelStateDesc="Down")

    async def settle(self, state: State = State.DONE, **fields: Any) -> None:
        await self.placed.wait()
        assert self.request is not None
        await self.worker.settle(self.request, state, **fields)

    async def answer(self) -> None:
        await self.placed.wait()
        assert self.request is not None
        await self.settle(events=told(self.request, "Success", "4"), call="up")

    async def end(self, uniqueid: str, **how: Any) -> None:
        await self.say("Hangup", Uniqueid=f"{uniqueid};2", Cause="0", **how)
        headers: dict[str, Any] = {"Uniqueid": uniqueid, "Cause": "16", "Cause-txt": "Normal Clearing", **how}
        await self.say("Hangup", then={"call": "ended", "cause": "16"}, **headers)


@pytest.fixture
def stage(worker: FakeWorker) -> Stage:
    return Stage(worker)


async def names(call: Call) -> list[str]:
    return [event.name async for event in call.events()]


async def test_all_may_be_waited_for_at_once(stage: Stage, pbx: Server) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    answered = asyncio.create_task(call.answered(WAIT_S))
    bridged = asyncio.create_task(call.bridged(WAIT_S))
    ended, again = (asyncio.create_task(call.ended(WAIT_S)) for _ in range(2))
    await stage.begin(call.uniqueid)
    await until(lambda: len(call.legs) == 2)
    assert not answered.done()
    await stage.answer()
    assert (await answered).disposition is Disposition.ANSWERED
    assert not bridged.done()
    await stage.say("BridgeEnter", Uniqueid=call.uniqueid, BridgeUniqueid="b1", BridgeNumChannels="2")
    assert (await bridged) is not None
    assert not ended.done()
    await stage.say("Rename", Uniqueid=call.uniqueid, Newname="Local/other")
    await stage.end(call.uniqueid)
    outcome = await ended
    assert (outcome.reason, outcome.cause, outcome.cause_text) == (4, 16, "Normal Clearing")
    assert (await again) == outcome == await call.ended(WAIT_S)
    assert call.legs[0].names == (f"Local/{call.uniqueid}", "Local/other")
    assert [event.name async for event in call.events()][-1] == "Hangup"


async def test_what_was_missed_in_an_interruption_is_told(stage: Stage, pbx: Server, admin: redis.Redis) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    bridged = asyncio.create_task(call.bridged(WAIT_S))
    await stage.begin(call.uniqueid)
    await stage.answer()
    await until(lambda: len(call.legs) == 2)
    await stage.say("BridgeEnter", False, Uniqueid=call.uniqueid, BridgeUniqueid="b1", BridgeNumChannels="2")
    admin.client_kill_filter(_type="pubsub")
    assert (await bridged) is not None
    await stage.end(call.uniqueid, say=False)
    admin.client_kill_filter(_type="pubsub")
    assert (await call.ended(WAIT_S)).cause == 16
    assert not any(leg.is_alive for leg in call.legs)


async def test_what_comes_after_an_interruption_does_not_overtake_what_was_missed(
    stage: Stage, pbx: Server, admin: redis.Redis
) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    await stage.begin(call.uniqueid)
    await until(lambda: len(call.legs) == 2)
    await stage.say("BridgeEnter", False, Uniqueid=call.uniqueid, BridgeUniqueid="b1", BridgeNumChannels="2")
    admin.client_kill_filter(_type="pubsub")
    await until(lambda: call._reader.missed)
    await stage.say("Newstate", Uniqueid=call.uniqueid, ChannelStateDesc="Up")
    await until(lambda: bool(call._reader._queue) and call._reader._queue[-1].name == "Newstate")
    assert (await call.bridged(WAIT_S)) is not None
    await until(lambda: call.legs[0].state == "Up")


async def test_what_no_event_told_the_record_does(stage: Stage, worker: FakeWorker, pbx: Server) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    await stage.settle(State.FAILED, code="originate-failed", message="cause 17", call="ended", cause="17")
    outcome = await call.ended(WAIT_S)
    assert (outcome.disposition, outcome.cause, outcome.message) == (Disposition.BUSY, 17, "cause 17")


async def test_a_failed_call_whose_channels_are_told_of_later(
    stage: Stage, worker: FakeWorker, pbx: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_events_module, "UNSEEN_S", 600.0)
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    await stage.settle(State.FAILED, code="originate-failed")
    assert (await call.answered(WAIT_S)).disposition is Disposition.FAILED
    ended = asyncio.create_task(call.ended(WAIT_S))
    for _ in range(10):  # it asks Redis as often as it likes meanwhile
        await call.action_record()
    assert not ended.done()
    assert stage.request is not None
    await worker.update(stage.request, call="dialing")
    await stage.begin(call.uniqueid)
    await stage.end(call.uniqueid)
    assert (await ended).cause == 16
    assert len(call.legs) == 2


async def test_a_failed_call_of_which_nothing_more_is_told_is_over(
    stage: Stage, pbx: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_events_module, "UNSEEN_S", 0.1)
    call = await pbx.originate("Nope/1", "200", timeout=WAIT_S)
    await stage.settle(State.FAILED, code="originate-failed", message="no such channel")
    assert (await call.ended(WAIT_S)).message == "no such channel"
    assert await call.bridged(WAIT_S) is None


@pytest.mark.parametrize(("state", "error"), [(State.REJECTED, ActionRejected), (State.UNKNOWN, ActionUnknown)])
async def test_a_call_that_was_not_placed_raises(
    stage: Stage, pbx: Server, state: State, error: type[Exception]
) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    await stage.settle(state, code="x")
    for wait in (call.answered, call.bridged, call.ended):
        with pytest.raises(error):
            await wait(WAIT_S)


async def test_patience_ends_and_the_waiting_can_begin_again(stage: Stage, pbx: Server) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    for wait in (call.answered, call.bridged, call.ended):
        with pytest.raises(ResultTimeout):
            await wait(0.01)
    await stage.begin(call.uniqueid)
    await stage.answer()
    await stage.end(call.uniqueid)
    assert (await call.ended(WAIT_S)).is_answered


async def forget(stage: Stage, admin: redis.Redis) -> None:
    """Redis loses the call's record."""
    assert stage.request is not None
    admin.delete(stage.worker.keys.action(stage.request.action_id))


@pytest.mark.parametrize("sees_events", [True, False])
async def test_a_record_that_is_gone_is_not_the_end_of_a_call(
    stage: Stage, pbx: Server, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch, sees_events: bool
) -> None:
    looks: list[bool] = []
    look = ActionReader._is_over

    async def counted(reader: ActionReader) -> bool:
        looks.append(await look(reader))
        return looks[-1]

    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    monkeypatch.setattr(call_events_module, "LOOK_S", 0.02)
    reading, ended = asyncio.create_task(names(call)), asyncio.create_task(call.ended(WAIT_S))
    for leg in (call.uniqueid, f"{call.uniqueid};2"):
        await stage.say("Newchannel", say=sees_events, Uniqueid=leg)
    await stage.answer()
    await call.result(WAIT_S)
    assert call._submission.result is not None
    readers: list[Any] = [call._reader, call._story.reader]
    await until(lambda: all(reader._recorded == "up" for reader in readers))
    monkeypatch.setattr(ActionReader, "_is_over", counted)
    await forget(stage, admin)
    await until(lambda: len(looks) > 10)
    assert not any(looks)
    await stage.say("Hangup", Uniqueid=f"{call.uniqueid};2", Cause="0")
    await stage.say("Hangup", Uniqueid=call.uniqueid, Cause="16")
    if not sees_events:  # that they were all its legs the record alone can tell
        await stage.worker.event("BusCallEnded", call.action_id)
    told = ["Newchannel"] * 2 * sees_events + ["Hangup"] * 2 + ["BusCallEnded"] * (not sees_events)
    assert await reading == told
    assert (await ended).is_answered


async def test_who_waits_hears_that_a_record_is_gone_for_good(
    stage: Stage, pbx: Server, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_events_module, "LOOK_S", 0.02)
    monkeypatch.setattr(call_events_module, "GONE_S", 0.1)
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    await stage.begin(call.uniqueid)
    await stage.answer()
    await call.result(WAIT_S)
    await until(lambda: len(call.legs) == 2)
    await forget(stage, admin)
    for waiting in (names(call), call.ended(WAIT_S), call.bridged(WAIT_S)):
        with pytest.raises(BusUnavailable, match="has lost the record of the call"):
            await waiting
    await stage.end(call.uniqueid)
    assert (await names(call))[-2:] == ["Hangup", "Hangup"]


async def test_a_record_that_has_expired_is_the_end_of_a_call(stage: Stage, pbx: Server, admin: redis.Redis) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    await stage.begin(call.uniqueid)
    await stage.answer()
    await stage.end(call.uniqueid)
    await call.result(WAIT_S)
    await until(lambda: call._story.state.is_over)
    await forget(stage, admin)
    assert (await names(call))[-1] == "Hangup"
    assert (await call.ended(WAIT_S)).is_answered


async def test_a_closed_call_does_not_pretend_to_be_over(stage: Stage, pbx: Server) -> None:
    call = await pbx.originate("Local/1", "200", timeout=WAIT_S)
    ended = asyncio.create_task(call.ended(WAIT_S))
    await stage.begin(call.uniqueid)
    await stage.answer()
    await call.answered(WAIT_S)
    call.close()
    with pytest.raises(BusUnavailable):
        await ended
    with pytest.raises(BusUnavailable):
        await call.bridged(WAIT_S)
    await stage.end(call.uniqueid)
    assert (await call.ended(WAIT_S)).cause == 16, "the record says so"


async def test_what_places_no_call_has_no_outcome(worker: FakeWorker, pbx: Server) -> None:
    call = await pbx.submit("Ping", timeout=WAIT_S)
    for wait in (call.answered, call.bridged, call.ended):
        with pytest.raises(TypeError, match="Ping"):
            await wait(WAIT_S)


async def test_who_waits_hears_of_a_closed_bus(stage: Stage, redis_url: str) -> None:
    bus = Bus(redis_url)
    call = await bus.server("pbx1").originate("Local/1", "200", timeout=WAIT_S)
    ended = asyncio.create_task(call.ended(WAIT_S))
    await stage.begin(call.uniqueid)
    await until(lambda: len(call.legs) == 2)
    await bus.close()
    with pytest.raises(BusUnavailable):
        await ended


async def watch_and_leave(stage: Stage, redis_url: str) -> "weakref.ref[Any]":
    """Close the bus when nobody waits for the call any more. What read its events, as long as it is there."""
    bus = Bus(redis_url)
    call = await bus.server("pbx1").originate("Local/1", "200", timeout=WAIT_S)
    ended = asyncio.create_task(call.ended(WAIT_S))
    await stage.begin(call.uniqueid)
    await until(lambda: len(call.legs) == 2)
    ended.cancel()
    await asyncio.wait([ended])
    await bus.close()
    driver = call._story._driver
    assert driver is not None
    assert driver.done()
    return weakref.ref(driver)


async def test_a_closed_bus_is_no_news_where_nobody_waits_any_more(stage: Stage, redis_url: str) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    driver = await watch_and_leave(stage, redis_url)
    # asyncio complains of an error when its future is thrown away unasked
    await until(lambda: (gc.collect(), driver())[1] is None)
    assert complaints == []


# Calls that are followed


class Followed:
    """A worker that follows one call."""

    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker
        self.asked: list[Request] = []
        self.is_alive = True
        worker.on("BusFollow", self._follow)

    async def _follow(self, _: FakeWorker, request: Request) -> None:
        self.asked.append(request)
        if not self.is_alive:
            await self.worker.settle(request, State.FAILED, code=ErrorCode.ASTERISK_ERROR, message="No such channel")
            return
        pairs = [("Event", "BusLeg"), ("Uniqueid", TARGET), ("Channel", "PJSIP/1"), ("ChannelState", "5")]
        await self.worker.settle(request, events=[Headers([*pairs, ("ChannelStateDesc", "Ringing")])])

    async def say(self, name: str, *, say: bool = True, **headers: str) -> None:
        """An event of it."""
        await self.worker.event(name, headers={"Uniqueid": TARGET, **headers}, calls=[TARGET], say=say)

    async def end(self, *, say: bool = True) -> None:
        self.is_alive = False
        await self.say("Hangup", Cause="16", say=say)
        await self.say("BusFollowEnded", reason="hung-up", say=say)


@pytest.fixture
def followed(worker: FakeWorker) -> Followed:
    return Followed(worker)


async def test_a_call_is_followed(followed: Followed, pbx: Server) -> None:
    call = await pbx.follow(TARGET, timeout=WAIT_S)
    [request] = followed.asked
    assert (request.target, request.timeout_s, request.lane) == (TARGET, 600.0, "urgent")
    assert (call.channel, call.legs[0].state, call.server) == ("PJSIP/1", "Ringing", "pbx1")
    [asking] = [task for task in asyncio.all_tasks() if task.get_name() == f"amibus follows {TARGET}"]
    answered = asyncio.create_task(call.answered(WAIT_S))
    await followed.say("Newstate", ChannelState="6", ChannelStateDesc="Up")
    assert (await answered).is_answered
    await followed.say("BridgeEnter", BridgeUniqueid="b1", BridgeNumChannels="2")
    assert (await call.bridged(WAIT_S)) is not None
    ended = asyncio.create_task(call.ended(WAIT_S))
    await followed.end()
    assert (await ended).cause == 16
    names = [event.name async for event in call.events()]
    assert names == ["Newstate", "BridgeEnter", "Hangup", "BusFollowEnded"]
    await asking
    assert followed.asked == [request], "of a call that is over nothing is asked"


async def test_what_came_before_the_answer_is_not_missed(followed: Followed, worker: FakeWorker, pbx: Server) -> None:
    answer = followed._follow

    async def late(fake: FakeWorker, request: Request) -> None:
        await followed.say("Newstate", ChannelState="6", ChannelStateDesc="Up")
        await followed.say("Hangup", Cause="17")
        await answer(fake, request)
        await followed.say("BusFollowEnded", reason="hung-up")

    worker.on("BusFollow", late)
    call = await pbx.follow(TARGET, timeout=WAIT_S)
    assert (await call.ended(WAIT_S)).cause == 17
    assert call.legs[0].state == "Up"


async def test_events_missed_by_a_follower_are_caught_up_with(
    followed: Followed, worker: FakeWorker, pbx: Server, admin: redis.Redis
) -> None:
    call = await pbx.follow(TARGET, timeout=WAIT_S)
    ended = asyncio.create_task(call.ended(WAIT_S))
    await worker.event("Newstate", headers={"Uniqueid": TARGET, "ChannelState": "6"}, calls=["another"])
    await followed.say("Newstate", say=False, ChannelState="6", ChannelStateDesc="Up")
    await followed.end(say=False)
    admin.client_kill_filter(_type="pubsub")
    outcome = await ended
    assert (outcome.is_answered, outcome.cause) == (True, 16)
    assert [event.name async for event in call.events()] == ["Newstate", "Hangup", "BusFollowEnded"]


async def test_a_call_that_is_gone_after_an_interruption_is_over(
    followed: Followed, pbx: Server, admin: redis.Redis
) -> None:
    call = await pbx.follow(TARGET, timeout=WAIT_S)
    ended = asyncio.create_task(call.ended(WAIT_S))
    followed.is_alive = False
    admin.client_kill_filter(_type="pubsub")
    assert (await ended).cause is None
    assert not call.legs[0].is_alive
    assert len(followed.asked) == 2


async def test_it_is_asked_for_again_and_again(
    followed: Followed, pbx: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "RENEW_S", 0.05)
    call = await pbx.follow(TARGET, timeout=WAIT_S)
    await until(lambda: len(followed.asked) > 3)
    call.close()
    assert len({request.action_id for request in followed.asked}) == len(followed.asked)


async def test_it_is_asked_for_again_at_the_time_limit(followed: Followed, pbx: Server) -> None:
    call = await pbx.follow(TARGET, timeout=WAIT_S)
    await followed.say("BusFollowEnded", reason="time-limit")
    await until(lambda: len(followed.asked) == 2)
    await followed.end()
    assert (await call.ended(WAIT_S)).cause == 16


async def test_what_cannot_be_followed(followed: Followed, worker: FakeWorker, bus: Bus, pbx: Server) -> None:
    followed.is_alive = False
    with pytest.raises(ActionFailed, match="No such channel"):
        await pbx.follow(TARGET, timeout=WAIT_S)

    async def refuse(fake: FakeWorker, request: Request) -> None:
        await fake.settle(request, State.REJECTED, code=ErrorCode.FORBIDDEN, message="too many")

    worker.on("BusFollow", refuse)
    with pytest.raises(ActionRejected, match="too many"):
        await pbx.follow(TARGET, timeout=WAIT_S)
    assert bus._dispatcher.subscriptions == 1


async def test_a_followed_call_that_nobody_holds_is_let_go(followed: Followed, bus: Bus, pbx: Server) -> None:
    def renewing() -> int:
        return sum(task.get_name().startswith("amibus follows") for task in asyncio.all_tasks())

    for _ in range(3):
        await pbx.follow(TARGET, timeout=WAIT_S)
    kept = await pbx.follow(TARGET, timeout=WAIT_S)
    gc.collect()
    await until(lambda: renewing() == 1)
    await until(lambda: bus._dispatcher.subscriptions == 2)
    kept.close()
    await until(lambda: renewing() == 0)
    await until(lambda: bus._dispatcher.subscriptions == 1)


async def test_a_follower_hears_of_a_closed_bus(followed: Followed, redis_url: str) -> None:
    bus = Bus(redis_url)
    call: FollowedCall = await bus.server("pbx1").follow(TARGET, timeout=WAIT_S)
    waiting = [asyncio.create_task(wait(WAIT_S)) for wait in (call.answered, call.ended)]
    await bus.close()
    for each in waiting:
        with pytest.raises(BusUnavailable):
            await each
