"""What becomes of calls: each outcome, told by `answered`, `bridged` and `ended`."""

import asyncio

import pytest

from broker import ActionRejected, Call, CallOutcome, Disposition, ResultTimeout, Server
from tests.live.harness import Site
from tests.live.observer import recording
from tests.live.telephony.calls import ANSWERING, TIMEOUT_S, calling

UNANSWERED = [
    pytest.param("Local/busy@default", Disposition.BUSY, 5, 17, id="busy"),
    pytest.param("Local/congestion@default", Disposition.CONGESTION, 8, 34, id="congestion"),
    pytest.param("Local/noanswer@default", Disposition.NO_ANSWER, 3, 19, id="no-answer"),
    pytest.param("Local/nobody@default", Disposition.FAILED, 0, 0, id="no-such-extension"),
    pytest.param("Nope/100", Disposition.FAILED, 0, None, id="no-such-technology"),
]


async def test_answered(pbx: Server) -> None:
    call = await pbx.originate("Local/102@default", application="Wait", data="1", timeout=TIMEOUT_S)
    outcome = await call.answered(TIMEOUT_S)
    assert (outcome.disposition, outcome.reason) == (Disposition.ANSWERED, 4)
    outcome = await call.ended(TIMEOUT_S)
    assert (outcome.disposition, outcome.reason) == (Disposition.ANSWERED, 4)
    assert (outcome.cause, outcome.cause_text) in ((16, "Normal Clearing"), (0, "Unknown"))
    await _told_by_the_record(call, outcome)
    assert (outcome.uniqueid, outcome.channel) == (call.channel_id, call.channel)
    assert [leg.uniqueid for leg in call.legs] == [call.uniqueid, f"{call.uniqueid};2"]
    assert [(leg.names, leg.is_alive) for leg in call.legs] == [((leg.channel,), False) for leg in call.legs]
    assert call.legs[0].channel.endswith(";1")
    assert await call.bridged(TIMEOUT_S) is None


@pytest.mark.parametrize(("channel", "disposition", "reason", "cause"), UNANSWERED)
async def test_not_answered(
    pbx: Server, channel: str, disposition: Disposition, reason: int, cause: int | None
) -> None:
    call = await pbx.originate(channel, application="Wait", data="1", ring_s=0.8, timeout=TIMEOUT_S)
    outcome = await call.answered(TIMEOUT_S)
    assert (outcome.disposition, outcome.reason) == (disposition, reason)
    assert "call failed" in outcome.message
    outcome = await call.ended(TIMEOUT_S)
    assert (outcome.disposition, outcome.reason) == (disposition, reason)
    assert outcome.cause in (cause, 0 if cause else cause)  # Asterisk does not always say why
    await _told_by_the_record(call, outcome)
    assert not any(leg.is_alive for leg in call.legs)
    assert await call.bridged(TIMEOUT_S) is None


async def _told_by_the_record(call: Call, outcome: CallOutcome) -> None:
    record = await call.action_record()
    assert record is not None
    assert record.get("cause") == ("" if outcome.cause is None else str(outcome.cause))
    assert record.get("reason") == str(outcome.reason)


async def test_to_an_extension_that_there_is_not(pbx: Server) -> None:
    call = await pbx.originate(ANSWERING, "nobody", timeout=TIMEOUT_S)
    outcome = await call.answered(TIMEOUT_S)
    assert (outcome.disposition, outcome.message) == (Disposition.FAILED, "Extension does not exist.")
    assert (outcome.reason, outcome.cause, outcome.channel) == (None, None, "")
    assert await call.ended(TIMEOUT_S) == outcome
    assert call.legs == ()


async def test_hung_up_while_it_rings(pbx: Server) -> None:
    call = await pbx.originate("Local/30@ring", application="Wait", data="1", timeout=TIMEOUT_S)
    async for event in call.events():
        if event.name == "Newstate":
            break
    assert call.legs[0].state == "Ringing"
    await call.hangup(21, timeout=TIMEOUT_S)
    assert (await call.answered(TIMEOUT_S)).disposition is Disposition.FAILED
    assert (await call.ended(TIMEOUT_S)).cause == 21


async def test_what_is_refused_has_no_outcome(pbx: Server) -> None:
    call = await pbx.originate(ANSWERING, application="System", data="true", timeout=TIMEOUT_S)
    for wait in (call.answered, call.bridged, call.ended):
        with pytest.raises(ActionRejected):
            await wait(TIMEOUT_S)


async def test_the_callers_patience_ends_and_the_call_goes_on(pbx: Server) -> None:
    async with calling(pbx) as call:
        for wait in (call.bridged, call.ended):
            with pytest.raises(ResultTimeout):
                await wait(0.05)
        assert call.legs[0].is_alive


WAYS = {
    "Local/102@default": (Disposition.ANSWERED, 4),
    "Local/busy@default": (Disposition.BUSY, 5),
    "Local/congestion@default": (Disposition.CONGESTION, 8),
    "Local/nobody@default": (Disposition.FAILED, 0),
}


ALL_OVER_S = 180.0


async def test_a_thousand_calls_at_once_each_have_their_own_outcome(fast: Server, site: Site) -> None:
    channels = [[*WAYS][number % len(WAYS)] for number in range(1000)]

    async def one(number: int) -> tuple[Call, CallOutcome]:
        call = await fast.originate(
            channels[number],
            application="Wait",
            data="0.1",
            action_id=f"thousand-{number}",
            channel_id=f"thousand-{number}",
            timeout=ALL_OVER_S,
        )
        outcome = await call.answered(ALL_OVER_S)
        ended = await call.ended(ALL_OVER_S)
        assert ended.disposition is outcome.disposition
        return call, ended

    # an independent session says what Asterisk told of each
    async with recording(site.asterisk, "amibus-events") as observer:
        told = await asyncio.gather(*(one(number) for number in range(1000)))
        events = await observer.end()
    responses = [event for event in events if event["Event"] == "OriginateResponse"]
    reasons = {str(event["ActionID"]): int(str(event["Reason"])) for event in responses}
    surprises = 0
    for number, (call, outcome) in enumerate(told):
        assert outcome.uniqueid == f"thousand-{number}"
        assert outcome.reason == reasons[outcome.uniqueid], outcome
        disposition, reason = WAYS[channels[number]]
        # under such a load Asterisk itself fails now and then
        surprises += outcome.reason != reason
        assert outcome.disposition is (disposition if outcome.reason == reason else Disposition.FAILED), outcome
        assert {leg.uniqueid for leg in call.legs} == {f"thousand-{number}", f"thousand-{number};2"}
        assert outcome.channel.startswith(f"{channels[number]}-")
    assert surprises < 20
