"""The worker ends, as asked or by a crash, while its calls are up: they go on, and are followed to their end."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.live.calls import PlacedCall, answered, is_idle, is_settled_and_over, placed
from tests.live.harness import Site, Worker, eventually
from tests.live.observer import observing
from tests.live.producer import Producer, new_id

both = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])


async def end(worker: Worker, number: signal.Signals) -> None:
    """End a worker; one that is asked to must end well."""
    assert await worker.stop(number) == (0 if number == signal.SIGTERM else -number)


@asynccontextmanager
async def successor(site: Site, producer: Producer) -> AsyncIterator[Worker]:
    """The next worker of the same server."""
    worker = site.worker(producer.server)
    try:
        worker.start()
        await worker.until("connected", producer)
        yield worker
    finally:
        await worker.close()


async def hang_up_from_outside(site: Site, channel_id: str) -> None:
    """End a call without the bus."""
    async with observing(site.asterisk) as observer:
        answer = await observer.session.action("Hangup", f"Channel: {channel_id}")
        assert b"Response: Success" in answer
        for leg in (channel_id, f"{channel_id};2"):
            await observer.until("Hangup", Uniqueid=leg)


@both
async def test_a_call_goes_on_and_the_next_worker_follows_it(site: Site, number: signal.Signals) -> None:
    server = f"restart-{number.name}"
    async with site.serving(server) as (producer, worker), answered(producer) as call:
        await end(worker, number)
        assert set(await producer.legs()) == call.legs
        assert call.channel_id in await site.asterisk.cli("core show channels concise")
        async with successor(site, producer):
            await eventually(lambda: _started_twice(producer), "each of the two has told of its gap")
            assert (await producer.record(call.action_id))["call"] == "up"
            assert (await producer.ask("Hangup", "Channel", call.channel_id))["state"] == "done"
            record = await call.watch.call_over(producer, call.action_id)
    assert (record["state"], record["call"]) == ("done", "ended")
    assert float(record["ended_at"]) > float(record["answered_at"])
    assert record["cause"].isdigit()
    assert set(call.hung_up) == call.legs
    epochs = [event["epoch"] for event in call.watch.events]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 2


async def _started_twice(producer: Producer) -> bool:
    gaps = [event["headers"]["reason"] for event in await producer.events() if event["name"] == "BusGap"]
    return gaps == ["worker-start"] * 2


async def test_a_call_that_ended_while_nobody_watched(site: Site) -> None:
    async with site.serving("unseen") as (producer, worker), answered(producer) as call:
        await end(worker, signal.SIGKILL)
        await hang_up_from_outside(site, call.channel_id)
        assert (await producer.record(call.action_id))["call"] == "up"
        async with successor(site, producer):
            ended = await call.watch.event("BusCallEnded")
            record = await call.watch.call_over(producer, call.action_id)
            assert await producer.legs() == {}
    assert (record["state"], record["call"]) == ("done", "ended")
    assert ended["action_ids"] == [call.action_id]


async def test_a_leg_that_ended_while_nobody_watched(site: Site) -> None:
    async with site.serving("half") as (producer, worker):
        fields = ("Context", "default", "Exten", "110", "Priority", "1")
        async with answered(producer, *fields) as call:
            await call.watch.until(lambda _: call.watch.names.count("BridgeEnter") == 2, "both parties in a bridge")
            assert len(call.legs) == 4
            await end(worker, signal.SIGKILL)
            # the party called hangs up; the originated channel is sent elsewhere, and so lives on
            async with observing(site.asterisk) as observer:
                where = ("Context: default", "Exten: 101", "Priority: 1")
                moved = await observer.session.action("Redirect", f"Channel: {call.channel_id}", *where)
                assert b"Response: Success" in moved
                for leg in call.legs - {call.channel_id, f"{call.channel_id};2"}:
                    await observer.until("Hangup", Uniqueid=leg)
            async with successor(site, producer):
                first = {call.channel_id, f"{call.channel_id};2"}
                await eventually(lambda: _legs(producer, first), "two legs are left")
                assert (await producer.record(call.action_id))["call"] == "up"
                assert (await producer.ask("Hangup", "Channel", call.channel_id))["state"] == "done"
                record = await call.watch.call_over(producer, call.action_id)
                assert await producer.legs() == {}
    assert record["call"] == "ended"


async def _legs(producer: Producer, wanted: set[str]) -> bool:
    return set(await producer.legs()) == wanted


async def test_a_call_that_rings_meanwhile_is_not_placed_again_and_has_its_own_outcome(site: Site) -> None:
    async with observing(site.asterisk) as observer, site.serving("ringing") as (producer, worker):
        async with placed(producer, "Application", "Wait", "Data", "300", channel="Local/30@ring") as call:
            await call.watch.event("Newstate", ChannelStateDesc="Ringing")
            await eventually(lambda: _is_sent(producer, call.action_id), "Asterisk's first answer is recorded")
            await end(worker, signal.SIGKILL)
            async with successor(site, producer):
                assert (await producer.record(call.action_id))["call"] == "dialing"
                assert (await producer.ask("Hangup", "Channel", call.channel_id))["state"] == "done"
                result = await call.watch.result()
                assert (result["state"], result["error"]["code"]) == ("failed", "originate-failed")
                record = await call.watch.call_over(producer, call.action_id)
                await observer.until("Hangup", Uniqueid=call.channel_id)
                await eventually(lambda: is_idle(producer), "nothing is left")
        assert len(observer.named("Newchannel", Uniqueid=call.channel_id)) == 1
    assert (record["state"], record["call"]) == ("failed", "ended")


async def _is_sent(producer: Producer, action_id: str) -> bool:
    return (await producer.record(action_id)).get("state") == "sent"


async def test_a_call_that_is_answered_meanwhile_is_done(site: Site) -> None:
    async with observing(site.asterisk) as observer, site.serving("answering") as (producer, worker):
        async with placed(producer, "Application", "Wait", "Data", "300", channel="Local/30@ring") as call:
            await call.watch.event("Newstate", ChannelStateDesc="Ringing")
            await end(worker, signal.SIGKILL)
            await observer.answer(call.channel_id)
            await observer.until("OriginateResponse", ActionID=call.action_id)
            async with successor(site, producer):
                result = await call.watch.result()
                assert result["state"] == "done"
                await producer.ask("Hangup", "Channel", call.channel_id)
                record = await call.watch.call_over(producer, call.action_id)
        assert len(observer.named("Newchannel", Uniqueid=call.channel_id)) == 1
    assert (record["state"], record["call"], record["reason"]) == ("done", "ended", "4")


async def test_a_call_that_came_and_went_meanwhile_is_unknown(site: Site) -> None:
    async with observing(site.asterisk) as observer, site.serving("passing") as (producer, worker):
        async with placed(producer, "Application", "Wait", "Data", "300", channel="Local/30@ring") as call:
            await call.watch.event("Newstate", ChannelStateDesc="Ringing")
            await end(worker, signal.SIGKILL)
            await observer.answer(call.channel_id)
            ended = await observer.session.action("Hangup", f"Channel: {call.channel_id}")
            assert b"Response: Success" in ended
            for leg in (call.channel_id, f"{call.channel_id};2"):
                await observer.until("Hangup", Uniqueid=leg)
            async with successor(site, producer):
                result = await call.watch.result()
                assert (result["state"], result["error"]["code"]) == ("unknown", "worker-lost")
        assert len(observer.named("Newchannel", Uniqueid=call.channel_id)) == 1


async def test_a_stop_waits_for_the_outcome_of_a_call(site: Site) -> None:
    async with (
        site.serving("draining") as (producer, worker),
        placed(producer, "Application", "Wait", "Data", "300", channel="Local/1@ring") as call,
    ):
        await call.watch.event("Newstate", ChannelStateDesc="Ringing")
        worker.send(signal.SIGTERM)
        result = await call.watch.result()
        assert (result["state"], result["events"][0]["Reason"]) == ("done", "4")
        assert await worker.exit_code() == 0
        assert (await producer.heartbeat()) == {}
        assert await producer.redis.exists(f"{producer.root}lease") == 0
        async with successor(site, producer):
            await producer.ask("Hangup", "Channel", call.channel_id)
            record = await call.watch.call_over(producer, call.action_id)
    assert (record["state"], record["call"]) == ("done", "ended")


@both
async def test_what_a_worker_held_and_had_not_begun_is_sent_once(site: Site, number: signal.Signals) -> None:
    # a hundred seconds between calls: the first one is sent, the others are taken and wait for their turn
    server = f"held-{number.name}"
    async with (
        observing(site.asterisk) as observer,
        site.serving(server, rate_calls="0.01") as (producer, worker),
    ):
        ids = [new_id("held") for _ in range(5)]
        for action_id in ids:
            fields = ("Channel", "Local/102@default", "Application", "Wait", "Data", "1")
            await producer.add("Action", "Originate", "ActionID", action_id, *fields)
        await eventually(lambda: _holds(producer, 4), "the first is settled, four are pending")
        await end(worker, number)
        async with successor(site, producer):
            for action_id in ids:
                await eventually(lambda: is_settled_and_over(producer, action_id), action_id)  # noqa: B023
            for action_id in ids:
                await observer.until("Hangup", Uniqueid=PlacedCall.id_of(producer, action_id))
        counts = [len(observer.named("Newchannel", Uniqueid=PlacedCall.id_of(producer, each))) for each in ids]
        records = [await producer.record(action_id) for action_id in ids]
        await eventually(lambda: is_idle(producer), "nothing is left")
    assert counts == [1] * len(ids)
    assert [record["state"] for record in records] == ["done"] * len(ids)
    assert [record["epoch"] for record in records] == ["1", "2", "2", "2", "2"]
    # first in, first out
    sending = [float(record["sending_at"]) for record in records]
    assert sending == sorted(sending)


async def _holds(producer: Producer, count: int) -> bool:
    return (await producer.queued(), await producer.pending()) == (count, count)


async def test_only_one_worker_of_a_server_serves(site: Site) -> None:
    async with site.serving("single", lease_s="6") as (producer, worker):
        standby = site.worker("single", lease_s="6")
        try:
            standby.start()
            await eventually(lambda: _logged(standby, "standing by"), "the second one stands by")
            assert (await producer.ask("Ping"))["state"] == "done"
            assert (await producer.heartbeat())["pid"] == str(worker.pid)
            await end(worker, signal.SIGTERM)
            await standby.until("connected", producer)
            result = await producer.ask("Ping")
            assert (await producer.record(result["action_id"]))["epoch"] == "2"
        finally:
            await standby.close()


async def _logged(worker: Worker, text: str) -> bool:
    return any(line["event"].startswith(text) for line in worker.log)
