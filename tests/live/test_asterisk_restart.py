"""Asterisk, or Redis, goes away and comes back while the worker runs."""

import signal

import pytest

from tests.live.calls import answered, is_idle, is_settled_and_over, placed
from tests.live.frail import frail, named
from tests.live.harness import Site, eventually
from tests.live.observer import observing
from tests.live.producer import Message, Producer, new_id
from tests.live.tap import Tap
from tests.servers import RedisServer

CALL = ("Channel", "Local/102@default", "Application", "Wait", "Data", "1")


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_asterisk_goes_and_comes_back(site: Site, how: str) -> None:
    async with frail(site, f"away-{how}") as bus:
        producer, worker = bus.producer, bus.worker
        async with answered(producer) as call:
            await (bus.asterisk.stop() if how == "stop" else bus.asterisk.kill())
            await worker.until("asterisk-away", producer)
            waiting = [new_id("waiting") for _ in range(3)]
            for action_id in waiting:
                await producer.add("Action", "Originate", "ActionID", action_id, *CALL)
            await _expires_while_away(producer)
            assert [await producer.record(action_id) for action_id in waiting] == [{}] * 3
            await bus.asterisk.start()
            await worker.until("connected", producer)
            for action_id in waiting:
                await eventually(lambda: is_settled_and_over(producer, action_id), action_id)  # noqa: B023
            record = await call.watch.call_over(producer, call.action_id)
        assert [len(bus.tap.actions(action_id)) for action_id in waiting] == [1, 1, 1]
        assert record["call"] == "ended"
        assert call.last_of_its_channels in ("Hangup", "BusCallEnded")
        await eventually(lambda: is_idle(producer), "nothing is left")
        _check_announcements(await producer.events(), site)
        await eventually(lambda: _works(producer), "it works again")
        # said once, not at every attempt
        assert len(worker.log) < 25, worker.output


async def _expires_while_away(producer: Producer) -> None:
    action_id = new_id("impatient")
    async with producer.watch(action_id) as watch:
        await producer.add("Action", "Ping", "ActionID", action_id, "Bus-Deadline", "+0.5")
        result = await watch.result()
    assert (result["state"], result["error"]["code"], result["sending_at"]) == ("expired", "expired", None)


def _check_announcements(events: list[Message], site: Site) -> None:
    gaps = named(events, "BusGap")
    assert [gap["headers"]["reason"] for gap in gaps] == ["worker-start", "connection-lost"]
    assert gaps[0]["headers"]["since"] == ""  # of a first start nobody knows
    assert float(gaps[1]["headers"]["since"]) < float(gaps[1]["headers"]["until"])
    connected = named(events, "BusConnected")
    assert len(connected) == 2
    assert all(event["headers"]["asterisk"].startswith(site.asterisk.version) for event in connected)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def _works(producer: Producer) -> bool:
    return bool((await producer.ask("Ping"))["state"] == "done")


async def test_what_was_written_and_not_answered_when_asterisk_died(site: Site) -> None:
    async with frail(site, "died") as bus:
        producer = bus.producer
        reading, writing, queued = new_id("ping"), new_id("setvar"), new_id("behind")
        async with (
            producer.watch(reading) as asked,
            producer.watch(writing) as changed,
            producer.watch(queued) as behind,
        ):
            bus.signal(signal.SIGSTOP)
            await producer.add("Action", "Ping", "ActionID", reading)
            await producer.add("Action", "Setvar", "ActionID", writing, "Variable", "DIED", "Value", "1")
            await eventually(lambda: _written(bus.tap, reading, writing), "both are written")
            # state-changing ones go singly: this one waits behind the other
            await producer.add("Action", "Setvar", "ActionID", queued, "Variable", "BEHIND", "Value", "2")
            await bus.asterisk.kill()
            lost = await changed.result()
            await bus.asterisk.start()
            assert (await asked.result())["state"] == "done"
            assert (await behind.result())["state"] == "done"
        assert (lost["state"], lost["error"]["code"]) == ("unknown", "connection-lost")
        # what only reads was asked again, the other never
        assert [len(bus.tap.actions(action_id)) for action_id in (reading, writing, queued)] == [2, 1, 1]
        assert (await producer.ask("Getvar", "Variable", "DIED"))["response"]["Value"] == ""
        assert (await producer.ask("Getvar", "Variable", "BEHIND"))["response"]["Value"] == "2"


async def _written(tap: Tap, *action_ids: str) -> bool:
    return all(tap.actions(action_id) for action_id in action_ids)


async def test_an_answer_that_comes_too_late_is_nobody_elses(site: Site) -> None:
    async with frail(site, "frozen") as bus:
        producer = bus.producer
        bus.signal(signal.SIGSTOP)
        late = await producer.ask("Setvar", "Variable", "LATE", "Value", "1", "Bus-Timeout", "0.5")
        assert (late["state"], late["error"]["code"]) == ("unknown", "timeout")
        following = new_id("following")
        async with producer.watch(following) as watch:
            await producer.add("Action", "Setvar", "ActionID", following, "Variable", "LATE", "Value", "2")
            bus.signal(signal.SIGCONT)
            result = await watch.result()
        assert (result["state"], result["response"]["ActionID"]) == ("done", following)
        assert len(bus.tap.actions(late["action_id"])) == 1
        # both were executed, in their order
        assert (await producer.ask("Getvar", "Variable", "LATE"))["response"]["Value"] == "2"


async def test_a_call_that_rings_when_asterisk_dies_is_unknown(site: Site) -> None:
    async with frail(site, "ringing-away") as bus:
        producer = bus.producer
        fields = ("Application", "Wait", "Data", "1", "Bus-Timeout", "3")
        async with placed(producer, *fields, channel="Local/30@ring") as call:
            await call.watch.event("Newstate", ChannelStateDesc="Ringing")
            await bus.asterisk.kill()
            await bus.asterisk.start()
            record = await call.watch.call_over(producer, call.action_id)
        assert (record["state"], record["call"]) == ("unknown", "ended")
        assert record["error_code"] in ("timeout", "connection-lost")
        assert len(bus.tap.actions(call.action_id)) == 1
        assert await producer.legs() == {}


async def test_redis_goes_and_comes_back_while_a_call_ends(site: Site) -> None:
    redis = RedisServer(site.redis.kind, "--appendfsync", "always")
    redis.start()
    try:
        async with Site(site.asterisk, redis).serving("redis-away") as (producer, worker):
            async with answered(producer) as call:
                redis.kill()
                async with observing(site.asterisk) as observer:
                    await observer.session.action("Hangup", f"Channel: {call.channel_id}")
                    for leg in (call.channel_id, f"{call.channel_id};2"):
                        await observer.until("Hangup", Uniqueid=leg)
                redis.start()
                await eventually(lambda: is_settled_and_over(producer, call.action_id), "its end is recorded")
                await worker.until("connected", producer)
                assert (await producer.ask("Ping"))["state"] == "done"
            events = [event for event in await producer.events() if call.action_id in event["action_ids"]]
            record = await producer.record(call.action_id)
        assert (record["state"], record["call"]) == ("done", "ended")
        hung_up = {event["headers"].get("Uniqueid") for event in named(events, "Hangup")}
        assert hung_up == call.legs or named(events, "BusCallEnded")
        async with Producer(redis.url, "redis-away") as producer:
            await eventually(lambda: is_idle(producer), "nothing is left")
    finally:
        redis.stop()
