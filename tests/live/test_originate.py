"""Originate on a real Asterisk: the whole life of a call on its action's channel, and what is kept of it."""

import asyncio

import pytest

from tests.live.calls import answered, headers_of, placed
from tests.live.harness import Site
from tests.live.observer import observing
from tests.live.producer import Producer, new_id


async def test_a_call_from_its_newchannel_to_its_last_hangup(pbx: Producer, site: Site) -> None:
    # an independent session with the rights of the worker's own says which events there were, and in what order
    async with observing(site.asterisk, "amibus-events") as observer:
        async with placed(pbx, "Application", "Wait", "Data", "1", channel="Local/100@default") as call:
            record = await call.watch.call_over(pbx, call.action_id)
        for leg in (call.channel_id, f"{call.channel_id};2"):
            await observer.until("Hangup", Uniqueid=leg)
        await observer.until("OriginateResponse", ActionID=call.action_id)
    assert call.legs == {call.channel_id, f"{call.channel_id};2"}
    events = call.watch.events
    assert headers_of(events) == observer.of_call(call.legs, call.action_id)
    # Asterisk may send OriginateResponse before or after all others: it takes another path than the events of channels
    first = next(event for event in events if event["name"] != "OriginateResponse")
    assert (first["name"], first["headers"]["Uniqueid"]) == ("Newchannel", call.channel_id)
    assert call.last_of_its_channels == "Hangup"
    assert set(call.hung_up) == call.legs
    assert all(event["action_ids"] == [call.action_id] for event in events)
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert [event for event in await pbx.events() if call.action_id in event["action_ids"]] == events
    assert await call.left(pbx) == set()
    _check_record_of_an_answered_call(record, first["headers"]["Channel"], call.channel_id)


def _check_record_of_an_answered_call(record: dict[str, str], channel: str, channel_id: str) -> None:
    assert (record["state"], record["call"], record["response"]) == ("done", "ended", "Success")
    assert (record["channel"], record["uniqueid"], record["reason"]) == (channel, channel_id, "4")
    assert record["cause"].isdigit()
    assert float(record["sending_at"]) <= float(record["answered_at"]) <= float(record["ended_at"])
    # Wait(1) is what it waits after the answer; the half is for the precision of timers
    assert float(record["ended_at"]) - float(record["answered_at"]) > 0.5
    assert "error_code" not in record


async def test_the_result_says_how_the_dialling_went(pbx: Producer) -> None:
    async with answered(pbx) as call:
        result = await call.watch.result()
        response = await call.watch.until(lambda message: message["type"] == "response", "a response")
        record = await pbx.record(call.action_id)
        assert await call.left(pbx) == call.legs
    assert response["headers"]["Message"] == "Originate successfully queued"
    assert result["response"] == response["headers"]
    (outcome,) = result["events"]
    assert (outcome["Event"], outcome["Response"], outcome["Reason"]) == ("OriginateResponse", "Success", "4")
    assert outcome["Uniqueid"] == call.channel_id
    assert (record["call"], record["channel"]) == ("up", outcome["Channel"])
    assert float(record["answered_at"]) > 0
    assert "cause" not in record


async def test_a_leg_that_is_dialled_later_belongs_to_the_call(pbx: Producer) -> None:
    async with answered(pbx, "Context", "default", "Exten", "110", "Priority", "1") as call:
        await call.watch.until(lambda _: call.watch.names.count("BridgeEnter") == 2, "both parties in a bridge")
        assert len(call.legs) == 4
        await pbx.ask("Hangup", "Channel", call.channel_id, urgent=True)
        record = await call.watch.call_over(pbx, call.action_id)
    assert set(call.hung_up) == call.legs
    assert call.last_of_its_channels == "Hangup"
    assert record["call"] == "ended"
    assert await call.left(pbx) == set()


async def test_an_own_channel_id_becomes_the_uniqueid(pbx: Producer) -> None:
    own = new_id("own")
    async with placed(pbx, "Application", "Wait", "Data", "1", "ChannelId", own, channel="Local/102@default") as call:
        record = await call.watch.call_over(pbx, call.action_id)
    assert record["uniqueid"] == own
    assert call.legs == {own, f"{own};2"}


# what OriginateResponse says of each (Asterisk 16 and 22 alike), and the cause of the hangup
FAILURES = [
    pytest.param("Local/busy@default", 5000, "5", "busy", id="busy"),
    pytest.param("Local/congestion@default", 5000, "8", "congestion", id="congestion"),
    pytest.param("Local/noanswer@default", 800, "3", "no answer", id="noanswer"),
    pytest.param("Local/5@ring", 800, "3", "no answer", id="rings-too-long"),
]


@pytest.mark.parametrize(("channel", "timeout_ms", "reason", "said"), FAILURES)
async def test_a_call_that_is_not_answered(
    pbx: Producer, channel: str, timeout_ms: int, reason: str, said: str
) -> None:
    fields = ("Application", "Wait", "Data", "1", "Timeout", str(timeout_ms))
    async with placed(pbx, *fields, channel=channel) as call:
        record = await call.watch.call_over(pbx, call.action_id)
        result = await call.watch.result()
    assert (result["state"], result["error"]["code"]) == ("failed", "originate-failed")
    assert said in result["error"]["message"]
    assert result["events"][0]["Reason"] == reason
    assert (record["state"], record["reason"], record["call"]) == ("failed", reason, "ended")
    assert record["uniqueid"] == call.channel_id
    assert "answered_at" not in record
    assert set(call.hung_up) == call.legs == {call.channel_id, f"{call.channel_id};2"}
    assert await call.left(pbx) == set()


async def test_a_channel_that_cannot_be_made(pbx: Producer) -> None:
    async with placed(pbx, "Application", "Wait", "Data", "1", channel="Nope/100") as call:
        result = await call.watch.result()
    record = await pbx.record(call.action_id)
    assert (result["state"], result["error"]["code"], record["reason"]) == ("failed", "originate-failed", "0")
    assert record["channel"] == "Nope/100"
    assert "call" not in record
    assert call.watch.names == ["OriginateResponse"]
    assert await call.left(pbx) == set()


async def test_a_channel_that_leads_nowhere(pbx: Producer) -> None:
    async with placed(pbx, "Application", "Wait", "Data", "1", channel="Local/nobody@default") as call:
        result = await call.watch.result()
        # Asterisk may tell that the call has failed before it tells of its channels
        record = await call.watch.call_over(pbx, call.action_id)
    assert (result["state"], result["error"]["code"], record["reason"]) == ("failed", "originate-failed", "0")
    assert record["channel"].startswith("Local/nobody@default")
    assert set(call.hung_up) == call.legs == {call.channel_id, f"{call.channel_id};2"}
    assert await call.left(pbx) == set()


async def test_an_extension_that_does_not_exist_is_an_immediate_error(pbx: Producer) -> None:
    fields = ("Context", "default", "Exten", "nobody", "Priority", "1")
    async with placed(pbx, *fields) as call:
        result = await call.watch.result()
    assert (result["state"], result["error"]["code"]) == ("failed", "asterisk-error")
    assert result["error"]["message"] == "Extension does not exist."
    assert result["events"] == []
    assert [message["type"] for message in call.watch.messages] == ["result"]
    record = await pbx.record(call.action_id)
    assert "call" not in record
    assert await call.left(pbx) == set()


async def test_calls_at_once_never_mix(pbx: Producer) -> None:
    async def one() -> tuple[str, set[str], list[str]]:
        async with placed(pbx, "Application", "Wait", "Data", "1", channel="Local/100@default") as call:
            await call.watch.call_over(pbx, call.action_id)
            assert await call.left(pbx) == set()
        assert all(event["action_ids"] == [call.action_id] for event in call.watch.events)
        return call.channel_id, call.legs, call.watch.names

    calls = await asyncio.gather(*(one() for _ in range(6)))
    for channel_id, legs, names in calls:
        assert legs == {channel_id, f"{channel_id};2"}
        assert sorted(names) == sorted(calls[0][2])


async def test_variables_come_over_with_their_commas(pbx: Producer) -> None:
    # AMI cuts a Variable at its commas unless they are escaped: what a producer repeats stays apart
    fields = ("Variable", "one=1", "Variable", "two=a\\,b", "Variable", "three=3,four=4", "Variable", "five=Grüße")
    async with answered(pbx, "Application", "Wait", "Data", "300", *fields) as call:
        values = {}
        for name in ("one", "two", "three", "four", "five"):
            result = await pbx.ask("Getvar", "Channel", call.channel_id, "Variable", name)
            values[name] = result["response"]["Value"]
        record = await pbx.record(call.action_id)
    assert values == {"one": "1", "two": "a,b", "three": "3", "four": "4", "five": "Grüße"}
    assert record["request"]["Variable"] == ["one=1", "two=a\\,b", "three=3,four=4", "five=Grüße"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_name_comes_back_as_it_was(pbx: Producer, encoding: str) -> None:
    fields = ("Application", "Wait", "Data", "1", "CallerID", '"Jürgen Groß" <4711>'.encode(encoding))
    async with placed(pbx, *fields, channel="Local/102@default") as call:
        await call.watch.call_over(pbx, call.action_id)
        result = await call.watch.result()
    (outcome,) = result["events"]
    assert (outcome["CallerIDName"], outcome["CallerIDNum"]) == ("Jürgen Groß", "4711")
    assert ("CallerIDName" in result.get("latin1", ())) is (encoding == "latin-1")
    event = await call.watch.event("OriginateResponse")
    assert event["headers"] == outcome
    assert event.get("latin1", []) == ([] if encoding == "utf-8" else ["CallerIDName"])
    record = await pbx.record(call.action_id)
    assert record["request"]["CallerID"] == '"Jürgen Groß" <4711>'
