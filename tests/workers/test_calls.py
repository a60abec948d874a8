"""Calls followed from their first Newchannel to the last Hangup of their last leg."""

import asyncio
import gc
from typing import Any

import pytest

from broker.ami import Event, Headers
from tests.bus_side import until
from workers import calls as calls_module
from workers.calls import Calls
from workers.channels import UP, Channel
from workers.connection import ConnectionLost
from workers.notes import Note
from workers.outcome import Outcome

TTL_MS = 60_000


def event(name: str, *pairs: tuple[str, str], **headers: str) -> Event:
    return Event(Headers([("Event", name), *pairs, *headers.items()]))


def newchannel(uniqueid: str, linkedid: str) -> Event:
    return event("Newchannel", Channel=f"Local/{uniqueid}", Uniqueid=uniqueid, Linkedid=linkedid)


def hangup(uniqueid: str, cause: str = "16", linkedid: str = "u1") -> Event:
    return event("Hangup", Uniqueid=uniqueid, Linkedid=linkedid, Cause=cause)


def told(action_id: str = "a1", **headers: str) -> Event:
    return event("OriginateResponse", ActionID=action_id, **({"Response": "Success", "Uniqueid": "u1"} | headers))


def fields(notes: list[Note]) -> dict[str, Any]:
    [note] = notes
    assert note["id"] == "a1"
    return dict(zip(note["fields"][::2], note["fields"][1::2], strict=True))


class Heard:
    """What the calls tell of by themselves."""

    def __init__(self) -> None:
        self.truths: list[tuple[str, str, str | None]] = []
        self.notes: list[Note] = []

    def truth(self, action_id: str, outcome: Outcome) -> None:
        self.truths.append((action_id, outcome.state, outcome.message))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def calls(heard: Heard) -> Calls:
    return Calls(lambda: 7.0, TTL_MS, on_truth=heard.truth, on_note=heard.notes.append)


async def test_no_time_of_a_call_is_before_one_that_is_told_already(heard: Heard) -> None:
    # Redis' clock is estimated, and the estimate changes: what follows on the sending does not come before it for that
    times = iter([99.0, 105.0, 104.0])
    calls = Calls(lambda: next(times), TTL_MS, on_truth=heard.truth, on_note=heard.notes.append)
    calls.expect("a1", "u1", 100.0)
    calls.expect("a2", "u2", 100.0)
    for uniqueid in ("u1", "u2"):
        calls.attribute(newchannel(uniqueid, uniqueid))
    for uniqueid, at in (("u1", "100.000000"), ("u2", "105.000000")):
        _, [note] = calls.attribute(event("Newstate", Uniqueid=uniqueid, ChannelState="6"))
        assert note["fields"] == ["call", "up", "answered_at", at]
    _, [note] = calls.attribute(hangup("u2"))
    assert note["fields"][-2:] == ["ended_at", "105.000000"]


async def test_a_call_is_followed_from_its_first_channel_to_its_last_hangup(calls: Calls) -> None:
    calls.expect("a1", "u1")
    ids, notes = calls.attribute(newchannel("u1", "u1"))
    assert ids == ["a1"]
    assert notes[0]["add"] == ["u1"]
    assert fields(notes) == {"call": "dialing", "channel": "Local/u1", "uniqueid": "u1"}
    ids, notes = calls.attribute(newchannel("u2", "u1"))
    assert (ids, notes[0]["add"], notes[0]["fields"]) == (["a1"], ["u2"], [])
    ids, notes = calls.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))
    assert fields(notes) == {"call": "up", "answered_at": "7.000000"}
    assert calls.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))[1] == []
    assert calls.alive() == {"u1", "u2"}
    ids, notes = calls.attribute(hangup("u2"))
    assert (ids, notes[0]["drop"], notes[0]["fields"], notes[0]["ttl_ms"]) == (["a1"], ["u2"], [], None)
    calls.deliver(told())
    ids, notes = calls.attribute(hangup("u1", "17"))
    assert fields(notes) == {"call": "ended", "cause": "17", "ended_at": "7.000000"}
    assert (ids, notes[0]["drop"], notes[0]["ttl_ms"]) == (["a1"], ["u1"], TTL_MS)
    assert len(calls) == 0
    assert calls.attribute(hangup("u1")) == ([], [])


async def test_events_belong_to_every_action_whose_legs_they_name(calls: Calls) -> None:
    for action_id, uniqueid in (("a1", "u1"), ("a2", "v1")):
        calls.expect(action_id, uniqueid)
        calls.attribute(newchannel(uniqueid, uniqueid))
    assert calls.attribute(event("DialBegin", Uniqueid="u1", DestUniqueid="v1"))[0] == ["a1", "a2"]
    assert calls.attribute(event("LocalOptimizationBegin", Uniqueid="x", DestUniqueId="v1"))[0] == ["a2"]
    assert calls.attribute(event("Cdr", UniqueID="u1"))[0] == ["a1"]
    assert calls.attribute(event("BridgeEnter", Linkedid="u1", Uniqueid="x"))[0] == []
    assert calls.attribute(event("VarSet", Uniqueid="x", Value="u1", Variable="MYUNIQUEID"))[0] == []


async def test_membership_stays_when_the_linkedid_changes_hands(calls: Calls) -> None:
    calls.expect("a1", "u1")
    calls.attribute(newchannel("u1", "u1"))
    calls.attribute(newchannel("u2", "u1"))
    calls.attribute(hangup("u1"))
    assert calls.attribute(event("BridgeEnter", Uniqueid="u2", Linkedid="elsewhere"))[0] == ["a1"]
    assert calls.attribute(newchannel("u3", "u1"))[0] == ["a1"], "its first leg has gone, its Linkedid lives on"
    assert calls.alive() == {"u2", "u3"}


async def test_who_joins_a_leg_that_is_alone_in_its_bridge_is_heard(calls: Calls) -> None:
    def enters(uniqueid: str, channels: str) -> Event:
        return event("BridgeEnter", BridgeUniqueid="b", BridgeNumChannels=channels, Uniqueid=uniqueid)

    calls.expect("a1", "u1")
    calls.attribute(newchannel("u1", "u1"))
    assert calls.attribute(enters("u1", "1"))[0] == ["a1"]
    assert calls.attribute(enters("x", "2")) == (["a1"], [])
    assert calls.attribute(enters("y", "3"))[0] == []
    calls.attribute(enters("u1", "1"))
    calls.look_away()
    assert calls.attribute(enters("x", "2"))[0] == []
    calls.attribute(enters("u1", "1"))
    calls.deliver(told())
    calls.attribute(hangup("u1"))
    assert calls.attribute(enters("x", "2"))[0] == [], "the call is over"


@pytest.mark.parametrize(
    ("pairs", "ids"),
    [
        ([("Channel", "Local/1"), ("Uniqueid", "u1"), ("UserEvent", "Mine"), ("Uniqueid", "x")], ["a1"]),
        ([("UserEvent", "Mine"), ("Uniqueid", "u1")], []),
        ([("UserEvent", "Mine"), ("MyUniqueid", "u1"), ("ActionID", "a1")], []),
        ([("Uniqueid", "x"), ("UserEvent", "Mine"), ("UserEvent", "x"), ("Uniqueid", "u1")], []),
    ],
)
async def test_a_user_event_is_attributed_by_nothing_that_its_sender_wrote(
    calls: Calls, pairs: list[tuple[str, str]], ids: list[str]
) -> None:
    calls.expect("a1", "u1")
    calls.attribute(newchannel("u1", "u1"))
    assert calls.attribute(event("UserEvent", ("Privilege", "user,all"), *pairs)) == (ids, [])


async def test_only_an_originate_response_is_attributed_by_its_action_id(calls: Calls) -> None:
    calls.expect("a1", "u1")
    assert calls.attribute(told(Uniqueid="<null>"))[0] == ["a1"]
    assert calls.attribute(told("other", Uniqueid="<null>"))[0] == []
    assert calls.attribute(event("Status", ActionID="a1"))[0] == []


async def test_the_originate_response_is_handed_to_whoever_waits(calls: Calls) -> None:
    response = calls.expect("a1", "u1")
    assert calls.expect("a1", "u1") is response
    answer = told()
    calls.attribute(answer)
    assert not response.done(), "not before it is out"
    calls.deliver(answer)
    calls.deliver(told())
    assert (await response).events == [answer.headers]
    calls.deliver(told("unknown"))


async def test_an_outcome_that_is_here_and_not_out_yet_cannot_be_lost(calls: Calls) -> None:
    response = calls.expect("a1", "u1")
    assert (calls.awaited(), calls.has_outcome("a1")) == ({"u1"}, False)
    answer = told()
    calls.attribute(answer)
    assert (calls.awaited(), calls.has_outcome("a1")) == (set(), True)
    calls.lose({"u1"}, OSError())
    assert not response.done()
    calls.deliver(answer)
    assert (await response).events == [answer.headers]
    calls.give_up("a1", placed=True)
    assert not calls.has_outcome("other")


async def test_that_an_outcome_was_lost_is_no_error_where_nobody_waits_for_it(calls: Calls) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    calls.expect("a1", "u1")
    calls.lose(["u1"], ConnectionLost("nobody saw it"))
    calls.rule_out("a1")
    assert len(calls) == 0
    await asyncio.sleep(0)  # the future's callbacks
    gc.collect()
    assert complaints == []


async def test_a_success_answers_a_dialing_call(calls: Calls) -> None:
    calls.expect("a1", "u1")
    calls.attribute(newchannel("u1", "u1"))
    assert fields(calls.attribute(told())[1])["call"] == "up"
    assert calls.attribute(told())[1] == []


async def test_the_cause_is_that_of_the_dialled_channel_if_it_tells(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "UNSEEN_S", 0.01)
    for first, second, cause in (("16", "17", "16"), ("0", "17", "17"), ("", "34", "34"), ("0", "0", "0")):
        calls.expect("a1", "u1")
        calls.attribute(newchannel("u1", "u1"))
        calls.attribute(newchannel("u2", "u1"))
        calls.attribute(hangup("u1", first))
        assert fields(calls.attribute(hangup("u2", second))[1])["cause"] == cause
        calls.give_up("a1", placed=True)
        await until(lambda: len(calls) == 0)


async def test_a_call_that_was_never_placed_is_forgotten_and_may_be_expected_again(calls: Calls) -> None:
    first = calls.expect("a1", "u1")
    calls.give_up("a1", placed=False)
    assert first.cancelled()
    assert len(calls) == 0
    calls.expect("a1", "u1")
    calls.give_up("a1", placed=True)
    assert len(calls) == 1, "it may be alive"
    again = calls.expect("a1", "u1")
    assert not again.cancelled()
    assert calls.attribute(newchannel("u1", "u1"))[0] == ["a1"]
    calls.give_up("a1", placed=False)
    assert len(calls) == 1, "it was seen"
    calls.give_up("nobody", placed=False)


async def test_a_failed_call_that_was_never_seen_is_forgotten_in_the_end(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "UNSEEN_S", 0.01)
    for action_id, uniqueid in (("a1", "u1"), ("a2", "v1")):
        calls.expect(action_id, uniqueid)
        calls.deliver(told(action_id, Response="Failure", Uniqueid="<null>"))
    calls.attribute(newchannel("v1", "v1"))  # late, but it was there
    await until(lambda: len(calls) == 1)
    assert calls.alive() == {"v1"}
    calls.attribute(hangup("v1"))
    assert len(calls) == 0


async def test_the_legs_of_an_earlier_worker_are_followed_to_their_end(calls: Calls) -> None:
    calls.load({"u1": "a1", "u2": "a1", "v1": "a2"}, {"a1": {"call": "up", "state": "done"}})
    assert calls.alive() == {"u1", "u2", "v1"}
    assert calls.attribute(hangup("u1"))[0] == ["a1"]
    assert fields(calls.attribute(hangup("u2", "19"))[1])["call"] == "ended"
    assert len(calls) == 1


async def test_legs_that_ended_unseen_are_told_once(calls: Calls) -> None:
    calls.load({"u1": "a1", "u2": "a1", "v1": "a2"}, {"a1": {"call": "up", "state": "done"}})
    ended = calls.end_unseen(["u1", "u2", "x"])
    assert [(note["drop"], over) for note, over in ended] == [(["u1"], None), (["u2"], "a1")]
    assert fields([ended[1][0]])["call"] == "ended"
    assert calls.end_unseen(["u1", "u2"]) == []
    assert calls.alive() == {"v1"}


async def test_calls_of_others_cost_nothing(calls: Calls) -> None:
    assert calls.attribute(newchannel("x", "x")) == ([], [])
    calls.expect("a1", "u1")
    assert calls.attribute(newchannel("x", "x")) == ([], [])
    assert calls.attribute(hangup("x")) == ([], [])
    assert calls.attribute(event("Hangup")) == ([], [])
    assert calls.alive() == set()


async def test_what_redis_forgot_of_the_calls_is_told_again(calls: Calls) -> None:
    for action_id, uniqueid in (("a1", "u1"), ("a2", "v1")):
        calls.expect(action_id, uniqueid)
    calls.attribute(newchannel("u1", "u1"))
    calls.attribute(newchannel("u2", "u1"))
    calls.attribute(hangup("u2"))
    legs = {"u2": "a1", "v1": "a2", "w1": "a3", "w2": "a3"}
    assert calls.unknown_of(legs) == {"a3"}
    notes = calls.recall(legs)
    assert (notes[0]["add"], notes[0]["drop"]) == (["u1"], ["u2"])
    assert fields(notes) == {"call": "dialing"}, "of the other no channel was seen"
    ended = calls.end_forgotten("a3", ["w1", "w2"])
    assert (ended["id"], ended["drop"], ended["fields"][:4]) == ("a3", ["w1", "w2"], ["call", "ended", "cause", ""])
    assert ended["ttl_ms"] == TTL_MS


async def test_a_leg_that_was_gone_before_the_call_was_taken_over_is_told_of_again(calls: Calls) -> None:
    calls.load({"u1": "a1"}, {"a1": {"state": "done", "call": "up", "uniqueid": "u1"}})
    (note,) = calls.recall({"u1": "a1", "u2": "a1"})
    assert (note["add"], note["drop"]) == (["u1"], ["u2"])


async def test_a_leg_that_is_gone_of_a_call_that_is_only_expected(calls: Calls) -> None:
    """Its entry came again to a Redis that had forgotten its end."""
    calls.expect("a1", "u1")
    legs = {"u1": "a1", "u1;2": "a1"}
    (note,) = calls.drop_gone(legs)
    assert (note["id"], note["add"], note["drop"], note["fields"]) == ("a1", [], ["u1;2"], [])
    calls.attribute(newchannel("u1", "u1"))
    calls.attribute(newchannel("u1;2", "u1"))
    assert calls.drop_gone(legs) == []


# -- legs whose call the record knows nothing of: Redis had forgotten it when they came, and its entry came again


@pytest.fixture(params=[["u1", "u1;2"], ["u1;2", "u1"]], ids=["the dialled first", "the dialled last"])
async def reserved(request: pytest.FixtureRequest, calls: Calls) -> "asyncio.Future[Outcome]":
    calls.load(dict.fromkeys(request.param, "a1"), {"a1": {"state": "sending"}})
    return calls.expect("a1", "u1")


async def test_all_of_them_are_gone_with_a_call_that_was_ruled_out(
    calls: Calls, heard: Heard, reserved: "asyncio.Future[Outcome]"
) -> None:
    calls.give_up("a1", placed=True)
    calls.rule_out("a1")
    assert [sorted(note["drop"]) for note in heard.notes] == [["u1", "u1;2"]]
    calls.expect("a2", "u1;2")
    assert calls.attribute(newchannel("u1;2", "u1;2"))[0] == ["a2"], "it is expected of nobody else"


async def test_all_of_them_are_gone_with_a_call_that_was_given_up(
    calls: Calls, heard: Heard, reserved: "asyncio.Future[Outcome]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "UNSEEN_S", 0.01)
    calls.give_up("a1", placed=True)
    await until(lambda: not len(calls))
    assert [sorted(note["drop"]) for note in heard.notes] == [["u1", "u1;2"]]


async def test_all_of_them_are_gone_with_the_last_that_was_seen(
    calls: Calls, reserved: "asyncio.Future[Outcome]"
) -> None:
    calls.attribute(newchannel("u1", "u1"))
    _, (note,) = calls.attribute(hangup("u1"))
    assert sorted(note["drop"]) == ["u1", "u1;2"]


async def test_of_them_those_that_are_not_alive_are_gone(calls: Calls, reserved: "asyncio.Future[Outcome]") -> None:
    assert calls.see({}) == [], "whoever waits for it finds out himself"
    (note,) = calls.see(alive("u1"))
    assert (note["add"], note["drop"]) == (["u1"], [])
    calls.give_up("a1", placed=True)
    (note,) = calls.see(alive("u1"))
    assert (note["add"], note["drop"]) == ([], ["u1;2"])
    (note,) = calls.see(alive("u1", UP))
    assert note["fields"][:2] == ["call", "up"], "it is the dialled channel"


# -- what is seen of the call of an Originate whose fate was unknown


@pytest.fixture
async def doubted(calls: Calls) -> Calls:
    calls.expect("a1", "u1")
    calls.attribute(newchannel("u1", "u1"))
    calls.give_up("a1", placed=True)
    calls.doubt("a1", "u1")
    return calls


async def test_a_late_originate_response_is_the_truth_and_told_once(doubted: Calls, heard: Heard) -> None:
    doubted.attribute(told(Response="Failure", Reason="5"))
    doubted.deliver(told(Response="Failure", Reason="5"))
    doubted.deliver(told())
    assert heard.truths == [("a1", "failed", "the call failed: busy")]


@pytest.mark.parametrize("seen", [False, True])
async def test_the_channel_of_a_call_is_not_taken_for_that_of_an_older_one_that_had_its_id(
    calls: Calls, seen: bool
) -> None:
    """What Redis has forgotten of the older one is found out beside the serving."""
    calls.expect("a1", "u1")
    if seen:
        calls.attribute(newchannel("u1", "u1"))
    calls.doubt("a0", "u1")
    calls.see(alive("u1"))
    assert calls.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))[0] == ["a1"]


async def test_an_answer_is_the_truth(doubted: Calls, heard: Heard) -> None:
    doubted.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))
    doubted.attribute(hangup("u1"))
    assert heard.truths == [("a1", "done", None)]


async def test_an_end_without_an_answer_is_the_truth(doubted: Calls, heard: Heard) -> None:
    doubted.attribute(hangup("u1", "17"))
    ((action_id, state, message),) = heard.truths
    assert (action_id, state) == ("a1", "failed")
    assert "cause 17" in (message or "")


async def test_an_end_that_nobody_saw_is_no_truth(doubted: Calls, heard: Heard) -> None:
    doubted.end_unseen(["u1"])
    assert heard.truths == []


@pytest.mark.parametrize("by", ["another worker", "a lost connection"])
async def test_an_end_after_a_time_unwatched_is_no_truth(calls: Calls, heard: Heard, by: str) -> None:
    if by == "another worker":
        calls.load({"u1": "a1"}, {"a1": {"call": "dialing", "state": "unknown"}})
    else:
        calls.expect("a1", "u1")
        calls.attribute(newchannel("u1", "u1"))
        calls.doubt("a1", "u1")
        calls.look_away()
    assert fields(calls.attribute(hangup("u1", "17"))[1]) == {"call": "ended", "cause": "", "ended_at": "7.000000"}
    assert heard.truths == [], "it may have been answered meanwhile"


async def test_an_end_after_a_look_at_the_channels_is_the_truth(doubted: Calls, heard: Heard) -> None:
    doubted.look_away()
    assert doubted.see(alive("u1", "5")) == []
    assert fields(doubted.attribute(hangup("u1", "17"))[1])["cause"] == "17"
    assert [state for _, state, _ in heard.truths] == ["failed"]


async def test_of_a_call_that_is_up_already_the_truth_is_told_at_once(calls: Calls, heard: Heard) -> None:
    calls.expect("a1", "u1")
    calls.attribute(newchannel("u1", "u1"))
    calls.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))
    calls.doubt("a1", "u1")
    assert heard.truths == [("a1", "done", None)]


async def test_a_doubted_call_that_nobody_expected_is_followed_all_the_same(calls: Calls, heard: Heard) -> None:
    calls.doubt("a1", "u1")  # sent before Redis went back in time
    assert calls.attribute(newchannel("u1", "u1"))[0] == ["a1"]
    calls.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))
    assert heard.truths == [("a1", "done", None)]


async def test_the_dialled_channel_is_known_whatever_the_order_of_the_legs(calls: Calls) -> None:
    calls.load({"u1;2": "a1", "u1": "a1"}, {"a1": {"call": "dialing", "uniqueid": "u1"}})
    assert calls.see(alive("u1;2", UP)) == []
    assert fields(calls.see(alive("u1", UP)))["call"] == "up"


@pytest.mark.parametrize("seen", ["a response", "a hangup", "an answer and a hangup", "a response without a channel"])
async def test_what_is_seen_while_it_is_being_settled_is_the_truth(
    calls: Calls, heard: Heard, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    monkeypatch.setattr(calls_module, "UNSEEN_S", 0.05)
    calls.expect("a1", "u1")
    if seen != "a response without a channel":
        calls.attribute(newchannel("u1", "u1"))
    calls.give_up("a1", placed=True)
    if seen == "an answer and a hangup":
        calls.attribute(event("Newstate", Uniqueid="u1", ChannelState="6"))
    if "hangup" in seen:
        calls.attribute(hangup("u1", "17"))
    else:
        calls.deliver(told(Response="Failure", Reason="5"))
    calls.doubt("a1", "u1")
    [(action_id, state, _)] = heard.truths
    assert (action_id, state) == ("a1", "done" if "answer" in seen else "failed")
    if seen != "a response":
        await until(lambda: len(calls) == 0)


async def test_a_late_failure_gives_the_channel_id_back(
    calls: Calls, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "UNSEEN_S", 0.01)
    calls.expect("a1", "u1").cancel()
    calls.doubt("a1", "u1")
    calls.deliver(told(Response="Failure", Reason="0", Uniqueid="<null>"))
    await until(lambda: len(calls) == 0, TTL_MS / 2000)
    assert [note["drop"] for note in heard.notes] == [["u1"]]


async def test_a_worker_that_takes_over_tells_the_truth_of_what_another_settled_as_unknown(
    calls: Calls, heard: Heard
) -> None:
    calls.load({"u1": "a1", "u2": "a2"}, {"a1": {"state": "unknown"}, "a2": {"call": "dialing", "state": "unknown"}})
    calls.attribute(newchannel("u1", "u1"))
    for uniqueid in ("u1", "u2"):
        calls.attribute(event("Newstate", Uniqueid=uniqueid, ChannelState="6"))
    assert [action_id for action_id, *_ in heard.truths] == ["a1", "a2"]


async def test_of_a_call_taken_over_that_is_up_the_truth_is_told_when_it_can_be(calls: Calls, heard: Heard) -> None:
    calls.load(
        {"u1": "a1", "u2": "a2", "u3": "a3"},
        {
            "a1": {"call": "up", "state": "unknown"},
            "a2": {"call": "up", "state": "done"},
            "a3": {"call": "dialing", "state": "unknown"},
        },
    )
    assert heard.truths == [], "nobody listens yet"
    calls.tell_loaded()
    calls.tell_loaded()
    assert heard.truths == [("a1", "done", None)]


async def test_a_doubtful_call_that_was_never_seen_is_kept_longer_than_another(
    calls: Calls, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "UNSEEN_S", 0.01)
    for action_id, uniqueid in (("a1", "u1"), ("a2", "u2")):
        calls.expect(action_id, uniqueid)
    calls.doubt("a1", "u1")
    for action_id in ("a1", "a2"):
        calls.give_up(action_id, placed=True)
    await until(lambda: len(calls) == 1)
    freed = [(note["id"], note["drop"]) for note in heard.notes]
    assert freed == [("a1", ["u1"]), ("a2", ["u2"])], "their ChannelIds are free again"
    assert calls.attribute(newchannel("u1", "u1"))[1][0]["add"] == ["u1"]
    calls.deliver(told())
    assert [action_id for action_id, *_ in heard.truths] == ["a1"]


# -- compared with the channels that are alive


def alive(uniqueid: str, state: str = "0") -> dict[str, Channel]:
    return {uniqueid: Channel(uniqueid, uniqueid, f"Local/{uniqueid}", state, "")}


async def test_a_channel_that_appeared_unseen_is_found(calls: Calls) -> None:
    outcome = calls.expect("a1", "u1")
    assert calls.see(alive("x")) == []
    (note,) = calls.see(alive("u1"))
    assert (note["id"], note["add"], note["fields"][:2]) == ("a1", ["u1"], ["call", "dialing"])
    assert not outcome.done()
    (note,) = calls.see(alive("u1", UP))
    assert note["fields"][:2] == ["call", "up"]
    assert (await outcome).state == "done"
    assert calls.see(alive("u1", UP)) == []


async def test_what_was_to_be_placed_by_a_lost_worker_and_is_not_alive_is_forgotten(calls: Calls) -> None:
    calls.load({"u1": "a1", "u2": "a2"}, {"a1": {"state": "sending"}, "a2": {"state": "sending"}})
    calls.expect("a2", "u2")
    (note,) = calls.see({})
    assert (note["id"], note["drop"]) == ("a1", ["u1"])
    assert len(calls) == 1, "whoever waits for the other finds out himself"


async def test_in_the_next_tenure_more_is_known_of_a_call_than_redis_says(calls: Calls, heard: Heard) -> None:
    calls.expect("a1", "u1")
    for each in (newchannel("u1", "u1"), event("Newstate", Uniqueid="u1", ChannelState="6")):
        calls.attribute(each)
    next_one = Heard()
    calls.pass_on(on_truth=next_one.truth, on_note=next_one.notes.append)
    calls.load({"gone": "a1", "u2": "a2"}, {"a1": {"call": "dialing"}})
    assert calls.alive() == {"u1", "u2"}
    calls.doubt("a1", "u1")
    assert ([truth[:2] for truth in next_one.truths], heard.truths) == ([("a1", "done")], [])
