"""The connection to Asterisk is cut when an action's bytes are out and its answer is not here."""

import pytest

from tests.live.calls import is_idle, placed
from tests.live.harness import Site, eventually
from tests.live.observer import Observer, observing
from tests.live.producer import Producer, new_id

WAIT = ("Application", "Wait", "Data", "300")

cuts = pytest.mark.parametrize("all_sessions", [False, True], ids=["its session", "all sessions"])


def came_to_be(observer: Observer, channel_id: str) -> int:
    """How often a channel with this Uniqueid did."""
    return len(observer.named("Newchannel", Uniqueid=channel_id))


@cuts
@pytest.mark.parametrize("exten", ["101@default", "2@ring"])
async def test_a_call_whose_answer_was_cut_off_is_done_when_it_is_answered(
    site: Site, all_sessions: bool, exten: str
) -> None:
    async with observing(site.asterisk) as observer, site.tapped(new_id("cut")) as (producer, worker, tap):
        action_id = new_id("cut")
        tap.cut_after(action_id, all_sessions=all_sessions)
        async with placed(producer, *WAIT, channel=f"Local/{exten}", action_id=action_id) as call:
            result = await call.watch.result()
            assert tap.has_cut
            assert (result["state"], result["revised"]) == ("done", False)
            await worker.until("connected", producer)
            await eventually(lambda: _is_up(producer, action_id), "the call is up")
            await producer.ask("Hangup", "Channel", call.channel_id)
            record = await call.watch.call_over(producer, action_id)
            await observer.until("Hangup", Uniqueid=call.channel_id)
        assert (record["state"], record["call"]) == ("done", "ended")
        assert (len(tap.actions(action_id)), came_to_be(observer, call.channel_id)) == (1, 1)
        await eventually(lambda: is_idle(producer), "nothing is left")


async def _is_up(producer: Producer, action_id: str) -> bool:
    return (await producer.record(action_id)).get("call") == "up"


@cuts
async def test_a_call_whose_answer_was_cut_off_has_failed_when_it_is_busy(site: Site, all_sessions: bool) -> None:
    async with observing(site.asterisk) as observer, site.tapped(new_id("cut")) as (producer, worker, tap):
        action_id = new_id("cut")
        tap.cut_after(action_id, all_sessions=all_sessions)
        tap.is_barred = all_sessions  # until the call is over: its events are to be missed
        async with placed(producer, *WAIT, channel="Local/busy@default", action_id=action_id) as call:
            await observer.until("OriginateResponse", ActionID=action_id)
            for leg in (call.channel_id, f"{call.channel_id};2"):
                await observer.until("Hangup", Uniqueid=leg)
            tap.is_barred = False
            result = await call.watch.result()
            assert tap.has_cut
            # with the events it was cut off from nobody saw it: only that it is no more
            wanted = ("unknown", "connection-lost") if all_sessions else ("failed", "originate-failed")
            assert (result["state"], result["error"]["code"]) == wanted
            await worker.until("connected", producer)
            assert (await producer.ask("Ping"))["state"] == "done"
        assert (len(tap.actions(action_id)), came_to_be(observer, call.channel_id)) == (1, 1)
        await eventually(lambda: _is_idle(producer), "nothing is left")


async def _is_idle(producer: Producer) -> bool:
    return (await producer.queued(), await producer.pending()) == (0, 0)


async def test_a_call_that_rings_too_long_after_the_cut_is_unknown_and_then_revised(site: Site) -> None:
    async with observing(site.asterisk) as observer, site.tapped(new_id("cut")) as (producer, _, tap):
        action_id = new_id("cut")
        tap.cut_after(action_id, all_sessions=True)
        fields = (*WAIT, "Bus-Timeout", "3")
        async with placed(producer, *fields, channel="Local/30@ring", action_id=action_id) as call:
            result = await call.watch.result()
            assert tap.has_cut
            assert (result["state"], result["error"]["code"]) == ("unknown", "connection-lost")
            assert result["error"]["message"]
            await observer.answer(call.channel_id)
            truth = await call.watch.until(lambda message: message.get("revised") is True, "the truth")
            assert (truth["state"], truth["error"]) == ("done", None)
            await producer.ask("Hangup", "Channel", call.channel_id)
            record = await call.watch.call_over(producer, action_id)
            await observer.until("Hangup", Uniqueid=call.channel_id)
        assert (record["state"], record["call"]) == ("done", "ended")
        states = [line["state"] for line in await producer.lines() if line["action_id"] == action_id]
        assert states == ["unknown", "done"]
        assert (len(tap.actions(action_id)), came_to_be(observer, call.channel_id)) == (1, 1)


@cuts
async def test_a_change_whose_answer_was_cut_off_is_unknown_and_made_once(site: Site, all_sessions: bool) -> None:
    async with site.tapped(new_id("cut")) as (producer, worker, tap):
        action_id, behind = new_id("cut"), new_id("behind")
        tap.cut_after(action_id, all_sessions=all_sessions)
        async with producer.watch(action_id) as cut, producer.watch(behind) as later:
            await producer.add("Action", "Setvar", "ActionID", action_id, "Variable", "CUT", "Value", action_id)
            await producer.add("Action", "Setvar", "ActionID", behind, "Variable", "BEHIND", "Value", "2")
            result = await cut.result()
            assert (result["state"], result["error"]["code"]) == ("unknown", "connection-lost")
            assert result["error"]["message"]
            assert (await later.result())["state"] == "done"
        await worker.until("connected", producer)
        assert (await producer.ask("Getvar", "Variable", "CUT"))["response"]["Value"] == action_id
        assert [len(tap.actions(each)) for each in (action_id, behind)] == [1, 1]
        await eventually(lambda: _is_idle(producer), "nothing is left")


async def test_a_read_whose_answer_was_cut_off_is_asked_again(site: Site) -> None:
    async with site.tapped(new_id("cut")) as (producer, _, tap):
        action_id = new_id("cut")
        tap.cut_after(action_id)
        async with producer.watch(action_id) as watch:
            await producer.add("Action", "CoreShowChannels", "ActionID", action_id)
            assert (await watch.result())["state"] == "done"
        assert len(tap.actions(action_id)) == 2
