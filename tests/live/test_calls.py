"""What is done to live calls, and the events of calls that the bus did not place."""

import pytest

from tests.live.calls import answered, placed
from tests.live.harness import Site
from tests.live.observer import observing
from tests.live.producer import Producer, is_event, new_id


async def test_a_call_is_redirected(pbx: Producer, site: Site) -> None:
    async with answered(pbx) as call:
        where = ("Context", "default", "Exten", "200", "Priority", "1")
        result = await pbx.ask("Redirect", "Channel", call.channel_id, *where)
        assert (result["state"], result["response"]["Message"]) == ("done", "Redirect successful")
        # extension 200 plays music, and that is an event of the call
        music = await call.watch.event("MusicOnHoldStart", Uniqueid=call.channel_id)
        assert music["action_ids"] == [call.action_id]
        record = await pbx.record(call.action_id)
        assert "MusicOnHold" in await site.asterisk.cli(f"core show channel {record['channel']}")
        assert record["call"] == "up"
        await pbx.ask("Hangup", "Channel", call.channel_id)
        record = await call.watch.call_over(pbx, call.action_id)
    assert set(call.hung_up) == call.legs
    assert record["call"] == "ended"


@pytest.mark.parametrize("by", ["uniqueid", "name"])
@pytest.mark.parametrize("urgent", [False, True])
async def test_a_call_is_hung_up(pbx: Producer, by: str, urgent: bool) -> None:
    async with answered(pbx) as call:
        record = await pbx.record(call.action_id)
        channel = record["channel"] if by == "name" else call.channel_id
        result = await pbx.ask("Hangup", "Channel", channel, "Cause", "21", urgent=urgent)
        assert (result["state"], result["response"]["Message"]) == ("done", "Channel Hungup")
        record = await call.watch.call_over(pbx, call.action_id)
    # the cause is that of the channel which the Originate asked for
    assert (record["call"], record["cause"]) == ("ended", "21")
    assert call.last_of_its_channels == "Hangup"
    assert await call.left(pbx) == set()


async def test_a_call_is_hung_up_while_it_rings(pbx: Producer) -> None:
    async with placed(pbx, "Application", "Wait", "Data", "1", channel="Local/30@ring") as call:
        await call.watch.event("Newstate", ChannelStateDesc="Ringing")
        assert (await pbx.record(call.action_id))["call"] == "dialing"
        assert (await pbx.ask("Hangup", "Channel", call.channel_id, urgent=True))["state"] == "done"
        record = await call.watch.call_over(pbx, call.action_id)
    assert (record["state"], record["call"], record["error_code"]) == ("failed", "ended", "originate-failed")
    assert "answered_at" not in record


async def test_events_of_other_calls_are_on_the_bus_and_belong_to_nobody(pbx: Producer, site: Site) -> None:
    foreign = new_id("foreign")
    async with pbx.subscribed("event:Hangup") as hangups, observing(site.asterisk, "observer") as observer:
        await observer.originate(foreign, "Channel: Local/102@default", "Application: Wait", "Data: 1")
        for leg in (foreign, f"{foreign};2"):
            hangup = await hangups.event("Hangup", Uniqueid=leg)
            assert hangup["action_ids"] == []
    events = [event for event in await pbx.events() if event["headers"].get("Linkedid") == foreign]
    assert {event["name"] for event in events} >= {"Newchannel", "Newstate", "Hangup"}
    assert all(event["action_ids"] == [] for event in events)
    assert foreign not in await pbx.legs()


async def test_an_own_call_bridged_with_a_foreign_one(pbx: Producer, site: Site) -> None:
    foreign = new_id("foreign")
    async with observing(site.asterisk, "observer") as observer, answered(pbx) as call:
        await observer.originate(foreign, "Channel: Local/101@default", "Application: Wait", "Data: 300")
        stranger = str((await observer.until("Newchannel", Uniqueid=foreign))["Channel"])
        await observer.until("OriginateResponse", Uniqueid=foreign)
        own = (await pbx.record(call.action_id))["channel"]
        bridged = await pbx.ask("Bridge", "Channel1", own, "Channel2", stranger)
        assert bridged["state"] == "done", bridged
        await call.watch.event("BridgeEnter", Uniqueid=call.channel_id)
        # Linkedid changes hands in a bridge; membership does not
        await pbx.ask("Hangup", "Channel", call.channel_id)
        await pbx.ask("Hangup", "Channel", foreign)
        record = await call.watch.call_over(pbx, call.action_id)
        await observer.until("Hangup", Uniqueid=foreign)
    assert set(call.hung_up) == {call.channel_id, f"{call.channel_id};2"}
    assert not any(is_event(event, "Hangup") and event["headers"]["Uniqueid"] == foreign for event in call.watch.events)
    assert record["call"] == "ended"


async def test_a_user_event_is_attributed_by_nothing_that_its_sender_wrote(pbx: Producer) -> None:
    async with answered(pbx) as call, pbx.subscribed("event:UserEvent") as user_events:
        forged = ("UserEvent", "Forged", "Uniqueid", call.channel_id, "Text", "Grüße")
        assert (await pbx.ask("UserEvent", *forged))["state"] == "done"
        seen = await user_events.event("UserEvent", UserEvent="Forged")
        await call.watch.drain(pbx)
    assert seen["action_ids"] == []
    assert seen["headers"]["Text"] == "Grüße"
    assert "UserEvent" not in call.watch.names


async def test_a_user_event_of_the_dialplan_belongs_to_its_call(pbx: Producer) -> None:
    async with placed(pbx, "Application", "Wait", "Data", "1", channel="Local/userevent@default") as call:
        await call.watch.call_over(pbx, call.action_id)
    event = await call.watch.event("UserEvent")
    assert (event["headers"]["Colour"], event["headers"]["Text"]) == ("green", "Grüße")
