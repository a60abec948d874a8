"""The same ActionID or ChannelId again: one call, as an independent AMI session counts."""

import asyncio

from tests.lab import LabAsterisk
from tests.live.calls import answered, placed
from tests.live.harness import Site, eventually
from tests.live.observer import Observer, observing
from tests.live.producer import Message, Producer, new_id

CALL = ("Channel", "Local/102@default", "Application", "Wait", "Data", "1")


def results(messages: list[Message]) -> list[Message]:
    """The results among what came on a channel."""
    return [message for message in messages if message["type"] == "result"]


async def all_seen(observer: Observer, pbx: Producer) -> None:
    """Wait until the observer has seen a call that was queued after all others."""
    last = new_id("last")
    await pbx.ask("Originate", *CALL, "ChannelId", last)
    for leg in (last, f"{last};2"):
        await observer.until("Hangup", Uniqueid=leg)


async def test_the_same_action_many_times_is_one_call(pbx: Producer, site: Site) -> None:
    action_id = new_id("twice")
    async with observing(site.asterisk) as observer, pbx.watch(action_id) as watch:
        duplicates = await _counted_so_far(pbx)
        fields = ("Action", "Originate", "ActionID", action_id, *CALL)
        entries = await asyncio.gather(*(pbx.add(*fields, urgent=number % 2 == 1) for number in range(8)))
        await watch.call_over(pbx, action_id)
        await eventually(lambda: _counted(pbx, duplicates + 7), "seven duplicates are counted")
        await all_seen(observer, pbx)
        assert len(observer.named("Newchannel", Uniqueid=f"amibus-pbx1-{action_id}")) == 1
        assert len(observer.named("OriginateResponse", ActionID=action_id)) == 1
    assert {result["entry"] for result in results(watch.messages)} <= set(entries)
    assert (await pbx.queued(), await pbx.pending()) == (0, 0)


async def _counted_so_far(pbx: Producer) -> int:
    """How many duplicates there were, by the second heartbeat from now on: the first may have been on its way."""
    for _ in range(2):
        last = (await pbx.heartbeat())["heartbeat_at"]
        await eventually(lambda: _has_beaten(pbx, last), "the next heartbeat")  # noqa: B023
    return int((await pbx.heartbeat())["duplicates"])


async def _has_beaten(pbx: Producer, last: str) -> bool:
    return (await pbx.heartbeat())["heartbeat_at"] != last


async def _counted(pbx: Producer, duplicates: int) -> bool:
    return int((await pbx.heartbeat())["duplicates"]) == duplicates


async def test_a_repetition_after_the_end_gets_the_same_result(pbx: Producer, site: Site) -> None:
    action_id = new_id("again")
    async with observing(site.asterisk) as observer, pbx.watch(action_id) as watch:
        first = await pbx.add("Action", "Originate", "ActionID", action_id, *CALL)
        record = await watch.call_over(pbx, action_id)
        # headers in another order of names and case, other Bus-* fields: it asks for the same thing
        async with pbx.subscribed("reply:impatient") as reply:
            again = ("Application", "Wait", "data", "1", "CHANNEL", "Local/102@default", "Bus-Reply", "impatient")
            await pbx.add("action", "Originate", "Actionid", action_id, *again)
            repeated = await reply.result()
        await all_seen(observer, pbx)
        await watch.drain(pbx)
        assert len(observer.named("Newchannel", Uniqueid=f"amibus-pbx1-{action_id}")) == 1
    assert repeated == record["result"]
    assert repeated["entry"] == first
    assert results(watch.messages) == [repeated, repeated]
    assert await pbx.record(action_id) == record


async def test_an_action_id_that_was_used_for_something_else(pbx: Producer, site: Site) -> None:
    action_id = new_id("reused")
    async with observing(site.asterisk) as observer, pbx.watch(action_id) as watch:
        first = await pbx.add("Action", "Originate", "ActionID", action_id, *CALL)
        record = await watch.call_over(pbx, action_id)
        second = await pbx.add("Action", "Originate", "ActionID", action_id, *CALL[:-1], "2")
        refusal = await watch.until(lambda message: message.get("entry") == second, "the second one's result")
        await all_seen(observer, pbx)
        assert len(observer.named("Newchannel", Uniqueid=f"amibus-pbx1-{action_id}")) == 1
    assert (refusal["state"], refusal["error"]["code"]) == ("rejected", "action-id-reused")
    assert await pbx.record(action_id) == record
    assert record["entry"] == first
    dead = await pbx.dead(second)
    assert (dead["reason_code"], dead["Data"]) == ("action-id-reused", "2")
    assert (await pbx.line(second))["state"] == "rejected"


async def test_a_channel_id_of_a_live_call_of_the_bus(pbx: Producer, site: Site) -> None:
    async with observing(site.asterisk) as observer, answered(pbx) as call:
        fields = ("Application", "Wait", "Data", "1", "ChannelId", call.channel_id)
        async with placed(pbx, *fields) as other:
            result = await other.watch.result()
        await all_seen(observer, pbx)
        assert len(observer.named("Newchannel", Uniqueid=call.channel_id)) == 1
        assert observer.named("OriginateResponse", ActionID=other.action_id) == []
        assert await call.left(pbx) == call.legs
        assert (await pbx.record(call.action_id))["call"] == "up"
    assert (result["state"], result["error"]["code"]) == ("rejected", "duplicate-channel-id")
    assert call.channel_id in result["error"]["message"]


async def test_a_channel_id_of_a_strangers_live_call(site: Site) -> None:
    stranger = new_id("stranger")
    async with LabAsterisk(site.asterisk.series) as own:
        async with Site(own, site.redis).serving("stranger") as (pbx, _), observing(own) as observer:
            await observer.originate(stranger, "Channel: Local/101@default", "Application: Wait", "Data: 300")
            await observer.until("OriginateResponse", Uniqueid=stranger)
            async with placed(pbx, "Application", "Wait", "Data", "1", "ChannelId", stranger) as call:
                result = await call.watch.result()
                # Asterisk refuses the second channel, and the stranger's goes on as nobody's
                assert (result["state"], result["error"]["code"]) == ("failed", "originate-failed")
                assert (await pbx.record(call.action_id)).get("call") is None
                assert await call.left(pbx) == set()
                await pbx.ask("Hangup", "Channel", stranger, urgent=True)
                await observer.until("Hangup", Uniqueid=stranger)
                await call.watch.drain(pbx)
            assert len(observer.named("Newchannel", Uniqueid=stranger)) == 1
        # having refused it, Asterisk counts a channel that is none, and would wait for its end before its own
        await own.kill()
    assert "Hangup" not in call.watch.names


async def test_a_channel_id_may_be_used_again_when_its_call_is_over(pbx: Producer) -> None:
    channel_id = new_id("line")
    for _ in range(3):
        async with placed(pbx, *CALL[2:], "ChannelId", channel_id, channel="Local/102@default") as call:
            record = await call.watch.call_over(pbx, call.action_id)
        assert (record["state"], record["call"], record["uniqueid"]) == ("done", "ended", channel_id)
        assert call.legs == {channel_id, f"{channel_id};2"}
