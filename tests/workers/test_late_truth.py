"""Actions that were settled as `unknown` and whose fate is seen later; from the queue to the caller, on real
servers."""

from collections.abc import AsyncIterator

import pytest

from broker import ActionFailed, ActionUnknown, Bus, Call
from broker.codec import Result
from tests.workers.worker_process import USERS, Desk, eventually, make_settings, pick_up, running_worker
from workers.simulated import SimulatedAsterisk

RING_S = 25.0
"""Longer than any test waits: `go_on` ends it."""


def go_on(asterisk: SimulatedAsterisk, exten: str) -> None:
    """The phone that rings says now what its extension's name says."""
    if exten == "100":
        pick_up(asterisk)
    else:
        (call,) = asterisk.calls
        call._refuse(exten)


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3, ring_s=RING_S) as simulated:
        yield simulated


@pytest.fixture
async def desk(redis_url: str, asterisk: SimulatedAsterisk) -> AsyncIterator[Desk]:
    """With a worker that serves it."""
    async with running_worker(make_settings(redis_url, asterisk)), Desk(redis_url) as opened:
        yield opened


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[Bus]:
    async with Bus(redis_url) as client:
        yield client


async def results_of(desk: Desk, action_id: str) -> list[tuple[str, str]]:
    """State and `revised` of an action's lines in `results`."""
    lines = await desk.lines(desk.keys.results)
    return [(line["state"], line["revised"]) for line in lines if line["action_id"] == action_id]


@pytest.mark.parametrize(("exten", "state", "code"), [("100", "done", None), ("busy", "failed", "originate-failed")])
async def test_an_originate_response_after_its_timeout(
    desk: Desk, asterisk: SimulatedAsterisk, exten: str, state: str, code: str | None
) -> None:
    channels = {desk.keys.action("c1"), desk.keys.reply("me")}
    async with desk.listening(*channels) as ear:
        await desk.originate("c1", exten, Bus_Timeout=0.5, Bus_Reply="me")
        record = await desk.settled("c1")
        assert (record["state"], record["error_code"]) == ("unknown", "timeout")
        go_on(asterisk, exten)
        record = await desk.reaches("c1", state=state)
        assert record.get("error_code") == code
        results = await ear.results(4)
    assert [(result.state, result.revised) for result in results] == [("unknown", False)] * 2 + [(state, True)] * 2
    assert {channel for channel, each in ear.heard if isinstance(each, Result) and each.revised} == channels
    assert await results_of(desk, "c1") == [("unknown", "0"), (state, "1")]
    await desk.reaches("c1", call="ended")
    assert asterisk.write_counts()["c1"] == 1


async def test_the_caller_is_told(desk: Desk, bus: Bus, asterisk: SimulatedAsterisk) -> None:
    pbx = bus.server("pbx1")
    asked = {"Channel": "Local/100@default", "Application": "Wait", "Data": "0"}
    async with await pbx.submit("Originate", action_id="c1", answer_timeout=0.5, headers=asked) as call:
        with pytest.raises(ActionUnknown) as caught:
            await call.result(timeout=60)
        assert not caught.value.result.revised
        go_on(asterisk, "100")
        names = [event.name async for event in call.events()]
        assert names[-1] == "Hangup"
        assert "OriginateResponse" in names
        await eventually(lambda: is_revised(call))
        result = await call.result()
        assert (result.state, result.revised) == ("done", True)
    # Whoever asks for the same again is told the truth, and nothing is sent a second time.
    again = await pbx.request("Originate", action_id="c1", answer_timeout=0.5, headers=asked, timeout=60)
    assert (again.state, again.revised) == ("done", True)


async def test_the_caller_is_told_of_a_failure(desk: Desk, bus: Bus, asterisk: SimulatedAsterisk) -> None:
    asked = {"Channel": "Local/busy@default", "Application": "Wait", "Data": "0"}
    async with await bus.server("pbx1").submit("Originate", answer_timeout=0.5, headers=asked) as call:
        with pytest.raises(ActionUnknown):
            await call.result(timeout=60)
        go_on(asterisk, "busy")
        async for _ in call.events():
            pass
        await eventually(lambda: is_revised(call))
        with pytest.raises(ActionFailed, match="hung up before it was answered, cause 17") as caught:
            await call.result()
        assert caught.value.result.revised


async def is_revised(call: Call) -> bool:
    return (await call.result(raise_on_failure=False)).revised


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
@pytest.mark.parametrize(("exten", "state"), [("100", "done"), ("busy", "failed")])
async def test_an_originate_whose_session_dropped_after_the_write(
    desk: Desk, asterisk: SimulatedAsterisk, moment: str, exten: str, state: str
) -> None:
    asterisk.switch.ring_s = 1.5
    asterisk.faults.drop_connection("c1", when=moment)
    await desk.originate("c1", exten)
    record = await desk.settled("c1")
    assert record["state"] == state
    assert await results_of(desk, "c1") == [(state, "0")], "its own outcome, at once"
    assert asterisk.write_counts()["c1"] == 1


async def test_an_originate_that_was_never_read_is_unknown(desk: Desk, asterisk: SimulatedAsterisk) -> None:
    asterisk.faults.drop_connection("c1", when="unread")
    await desk.originate("c1")
    record = await desk.settled("c1")
    assert (record["state"], record["error_code"]) == ("unknown", "connection-lost")
    assert asterisk.write_counts()["c1"] == 0


@pytest.mark.parametrize(("exten", "state"), [("100", "done"), ("busy", "failed")])
async def test_the_next_worker_corrects_what_the_last_one_left_in_doubt(
    redis_url: str, asterisk: SimulatedAsterisk, exten: str, state: str
) -> None:
    async with Desk(redis_url) as desk:
        async with running_worker(make_settings(redis_url, asterisk, name="first")):
            await desk.originate("c1", exten, Bus_Timeout=0.5)
            assert (await desk.settled("c1"))["state"] == "unknown"
            await desk.reaches("c1", call="dialing")
        async with running_worker(make_settings(redis_url, asterisk, name="second")):
            go_on(asterisk, exten)
            record = await desk.reaches("c1", state=state)
            assert "error" not in record or state == "failed"
            assert await results_of(desk, "c1") == [("unknown", "0"), (state, "1")]
            await desk.reaches("c1", call="ended")
            await eventually(lambda: forgotten(desk))
    assert asterisk.write_counts()["c1"] == 1


async def test_a_truth_that_was_seen_and_never_written_is_made_good(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    asterisk.switch.ring_s = 0.0
    async with Desk(redis_url) as desk:
        async with running_worker(make_settings(redis_url, asterisk, name="first")):
            await desk.originate("c1", Data="600")
            await desk.reaches("c1", state="done", call="up")
        # As if the worker had been lost between the note that the call is up and the correction.
        await desk.redis.hset(desk.keys.action("c1"), mapping={"state": "unknown", "error_code": "timeout"})
        async with running_worker(make_settings(redis_url, asterisk, name="second")):
            record = await desk.reaches("c1", state="done")
            assert "error_code" not in record
            assert (await desk.result("c1")).revised
            await desk.add("Hangup", "h1", Channel=record["channel"])
            await desk.reaches("c1", call="ended")


async def forgotten(desk: Desk) -> bool:
    return not await desk.redis.exists(desk.keys.legs)
