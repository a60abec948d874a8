"""The state of a call, folded from what a real Asterisk sent, after the worker has told whose events they are."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from broker.ami import Event, Headers
from broker.call_state import TIME_LIMIT, Bridge, CallState, Disposition
from broker.codec import BusEvent, Result, State
from broker.errors import ErrorCode
from broker.record import Record
from tests.ami.wire import received
from tests.lab.capture import read_capture
from tests.lab.suites import SUITES
from workers.calls import Calls
from workers.follows import Follows

both = pytest.mark.parametrize("series", list(SUITES))
CALLS = (
    "answered", "busy", "congestion", "no-answer", "no-such-extension", "no-such-technology", "hung-up", "bridged",
    "optimised", "blind", "attended", "pickup", "picker",
)  # fmt: skip


@dataclass
class Told:
    """A call's state at its end, and what led to it."""

    state: CallState
    events: list[BusEvent] = field(default_factory=list)

    def take(self, event: BusEvent) -> None:
        self.events.append(event)
        self.state.apply(event)


@cache
def told(series: str) -> dict[str, Told]:
    """All calls of the capture, as the worker attributes their events. A call's ActionID is its ChannelId."""
    calls = Calls(lambda: 0.0, 1, on_truth=lambda *_: None, on_note=lambda _: None)
    by_id = {call: Told(CallState(call, call)) for call in CALLS}
    for call in CALLS:
        calls.expect(call, call)
    for seq, event in enumerate(_events(series)):
        action_ids, _ = calls.attribute(event)
        for action_id in action_ids:
            by_id[action_id].take(_bus_event(event, seq))
        if event.name == "OriginateResponse":
            calls.deliver(event)
    return by_id


def _events(series: str) -> list[Event]:
    messages = received([read_capture(series, "outcomes")], banner=b"")
    return [message for message in messages if isinstance(message, Event)]


def _bus_event(event: Event, seq: int = 1) -> BusEvent:
    return BusEvent("pbx1", event.name, event.headers, [], 1, seq)


def event(name: str, **headers: str) -> BusEvent:
    return BusEvent("pbx1", name, Headers([*headers.items()]), [], 1, 1)


OUTCOMES = [
    ("answered", Disposition.ANSWERED, 4, (0, 16)),
    ("busy", Disposition.BUSY, 5, (17,)),
    ("congestion", Disposition.CONGESTION, 8, (34,)),
    ("no-answer", Disposition.NO_ANSWER, 3, (0, 19)),
    ("no-such-extension", Disposition.FAILED, 0, (0,)),
    ("no-such-technology", Disposition.FAILED, 0, (None,)),
    ("hung-up", Disposition.FAILED, 0, (21,)),
    ("bridged", Disposition.ANSWERED, 4, (0, 16)),
    ("pickup", Disposition.ANSWERED, 4, (26,)),  # the first that tells something: of the one that rang in vain
]


@both
@pytest.mark.parametrize(("call", "disposition", "reason", "causes"), OUTCOMES)
async def test_what_became_of_it(
    series: str, call: str, disposition: Disposition, reason: int, causes: tuple[int | None, ...]
) -> None:
    state = told(series)[call].state
    outcome = state.outcome()
    assert state.is_dialled
    assert (outcome.disposition, outcome.reason) == (disposition, reason)
    assert outcome.cause in causes
    assert outcome.is_answered is (disposition is Disposition.ANSWERED)
    assert state.is_over or call == "no-such-technology"  # it never had a channel
    assert not any(leg.is_alive or leg.bridge_id for leg in state.legs.values())


LEGS = {
    "answered": 2, "busy": 2, "no-such-extension": 2, "no-such-technology": 0, "bridged": 4, "optimised": 6, "blind": 4,
    "attended": 6, "pickup": 4, "picker": 2,
}  # fmt: skip


@both
@pytest.mark.parametrize("call", list(LEGS))
async def test_its_legs(series: str, call: str) -> None:
    state = told(series)[call].state
    assert len(state.legs) == LEGS[call]
    assert set(state.legs) >= ({call, f"{call};2"} if LEGS[call] else set())
    for leg in state.legs.values():
        assert leg.names == (leg.channel,)
        assert "/" in leg.channel
        assert leg.cause is not None


@both
async def test_the_bridge_that_it_was_in(series: str) -> None:
    calls = told(series)
    unbridged = {call for call in CALLS if calls[call].state.bridged is None}
    assert unbridged == {
        "answered", "busy", "congestion", "no-answer", "no-such-extension", "no-such-technology", "hung-up",
    }  # fmt: skip
    bridge = calls["bridged"].state.bridged
    assert bridge is not None
    assert (bridge.channels, len(bridge.legs)) == (2, 2)
    assert "bridged;2" in bridge.legs
    picked_up, picker = calls["pickup"].state.bridged, calls["picker"].state.bridged
    assert picked_up is not None
    # the one that picks up was there first: the other's BridgeEnter is its event, too
    assert picker == Bridge(picked_up.bridge_id, ("picker",), 2)
    assert picked_up.legs == ("pickup;2",)


@both
async def test_calls_that_cross_do_not_mix(series: str) -> None:
    calls = told(series)
    for one in CALLS:
        for other in CALLS:
            if one < other:
                assert not calls[one].state.legs.keys() & calls[other].state.legs.keys()


OTHERWISE = {"hung-up": Disposition.NO_ANSWER, "no-answer": Disposition.FAILED}


@both
async def test_a_followed_call_is_told_by_its_channel_alone(series: str) -> None:
    ended: list[tuple[str, str]] = []
    follows = Follows(lambda: 0.0, lambda target, reason: ended.append((target, reason)))
    by_id = {call: Told(CallState(call)) for call in CALLS if call != "no-such-technology"}
    for seq, each in enumerate(_events(series)):
        if each.name == "Newchannel" and each.headers["Uniqueid"] in by_id:
            follows.begin(each.headers["Uniqueid"], 1.0)
        for target in follows.attribute(each):
            by_id[target].take(_bus_event(each, seq))
        follows.tell_over()
    assert {target for target, _ in ended} == by_id.keys()
    assert {reason for _, reason in ended} == {"hung-up"}
    for call, heard in by_id.items():
        known = told(series)[call].state
        assert heard.state.legs == known.legs
        assert heard.state.is_over
        # Without a Reason one that was hung up looks as if it was not answered; and that, where Asterisk gives no
        # cause, as if it had failed.
        assert heard.state.outcome().disposition in (known.outcome().disposition, OTHERWISE.get(call)), call
        assert (heard.state.bridged is None) is (known.bridged is None)


# What the lab cannot provoke, or only now and then


def test_a_rename_gives_another_name() -> None:
    state = CallState("u1", "a1")
    state.apply(event("Newchannel", Uniqueid="u1", Channel="DAHDI/i1/100-1", ChannelStateDesc="Down"))
    assert state.channel == "DAHDI/i1/100-1"
    state.apply(event("Rename", Uniqueid="u1", Channel="DAHDI/i1/100-1", Newname="DAHDI/i1/100-1<MASQ>"))
    state.apply(event("Rename", Uniqueid="u1", Channel="DAHDI/i1/100-1<MASQ>", Newname="DAHDI/i1/100-2"))
    state.apply(event("Rename", Uniqueid="another", Channel="x", Newname="y"))
    assert state.channel == "DAHDI/i1/100-2"
    assert state.legs["u1"].names == ("DAHDI/i1/100-1", "DAHDI/i1/100-1<MASQ>", "DAHDI/i1/100-2")


def test_the_response_to_a_second_originate_with_its_channel_id_is_not_its_own() -> None:
    state = CallState("u1", "a1")
    state.apply(event("Newchannel", Uniqueid="u1", Channel="Local/1"))
    state.apply(event("OriginateResponse", ActionID="a2", Uniqueid="u1", Response="Failure", Reason="0"))
    assert not state.is_dialled
    followed = CallState("u1")
    followed.apply(event("OriginateResponse", ActionID="a2", Uniqueid="u1", Response="Failure", Reason="0"))
    assert not followed.is_dialled
    followed.apply(event("OriginateResponse", ActionID="a1", Uniqueid="u1", Response="Success", Reason="4"))
    assert followed.outcome().reason == 4


def result(state: State, code: ErrorCode | None = None, message: str | None = None, **response: str) -> Result:
    events = [Headers([("Event", "OriginateResponse"), ("ActionID", "a1"), *response.items()])] if response else []
    return Result("pbx1", "a1", "1-0", "Originate", state, events=events, error_code=code, error_message=message)


def test_the_result_alone_tells_how_the_dialling_went() -> None:
    state = CallState("u1", "a1")
    state.settle(result(State.FAILED, ErrorCode.ORIGINATE_FAILED, "busy", Response="Failure", Reason="5"))
    outcome = state.outcome()
    assert (outcome.disposition, outcome.reason, outcome.message) == (Disposition.BUSY, 5, "busy")
    assert not state.is_over, "its channels may be hanging up"
    state = CallState("u1", "a1")
    state.settle(result(State.FAILED, ErrorCode.ASTERISK_ERROR, "Extension does not exist."))
    assert state.is_over
    assert state.outcome().disposition is Disposition.FAILED
    state = CallState("u1", "a1")
    state.settle(result(State.DONE))
    assert state.outcome().is_answered
    state = CallState("u1", "a1")
    state.settle(result(State.UNKNOWN, ErrorCode.TIMEOUT))
    assert not state.is_dialled


@pytest.mark.parametrize(
    ("cause", "disposition"),
    [
        ("17", Disposition.BUSY),
        ("19", Disposition.NO_ANSWER),
        ("34", Disposition.CONGESTION),
        ("16", Disposition.FAILED),
    ],
)
def test_where_nobody_saw_the_answer_the_record_tells(cause: str, disposition: Disposition) -> None:
    state = CallState("u1", "a1")
    state.apply(event("Newchannel", Uniqueid="u1", Channel="Local/1"))
    state.recall(Record("pbx1", "a1", {"state": "failed", "call": "ended", "cause": cause, "channel": "Local/1"}))
    assert state.is_over
    assert not state.legs["u1"].is_alive
    assert (state.outcome().disposition, state.outcome().cause) == (disposition, int(cause))


def test_the_record_tells_all_of_a_call_that_was_missed() -> None:
    fields = {
        "state": "done",
        "call": "up",
        "answered_at": "1.0",
        "reason": "4",
        "channel": "Local/1",
        "uniqueid": "u1",
    }
    state = CallState("u1", "a1")
    state.recall(Record("pbx1", "a1", fields))
    assert (state.channel, state.is_over, state.outcome().reason) == ("Local/1", False, 4)
    state.recall(Record("pbx1", "a1", fields | {"call": "ended", "cause": "16"}))
    assert (state.is_over, state.outcome().cause, state.outcome().is_answered) == (True, 16, True)


def test_the_text_of_a_cause_stays_when_the_record_says_the_same() -> None:
    state = CallState("u1", "a1")
    state.apply(event("Newchannel", Uniqueid="u1", Channel="Local/1"))
    state.apply(event("Hangup", Uniqueid="u1", Cause="16", **{"Cause-txt": "Normal Clearing"}))
    state.recall(Record("pbx1", "a1", {"state": "done", "call": "ended", "cause": "16"}))
    assert state.outcome().cause_text == "Normal Clearing"


def legs(*each: tuple[str, str, str, str]) -> list[Headers]:
    names = ("Uniqueid", "ChannelState", "BridgeUniqueid", "BridgeNumChannels")
    pairs: list[list[tuple[str, str]]] = [[*zip(names, values, strict=True)] for values in each]
    return [Headers([*those, ("Channel", f"Local/{those[0][1]}")]) for those in pairs]


def test_a_follow_begins_with_the_legs_that_are_there() -> None:
    state = CallState("u1")
    state.begin(legs(("u1", "6", "b1", "2"), ("u2", "6", "", "")))
    assert state.outcome().is_answered
    assert state.bridged == Bridge("b1", ("u1",), 2)
    # what is told twice, by an event that was underway, changes nothing
    state.apply(event("Newchannel", Uniqueid="u2", Channel="Local/u2", ChannelState="0"))
    assert state.legs["u2"].channel == "Local/u2"
    state.apply(event("Hangup", Uniqueid="u1", Cause="16"))
    assert not state.is_over
    state.apply(event("Hangup", Uniqueid="u2", Cause="16"))
    assert state.is_over


@pytest.mark.parametrize(
    ("name", "reason", "is_over"),
    [
        ("BusFollowEnded", TIME_LIMIT, False),
        ("BusFollowEnded", "ended-unseen", True),
        ("BusCallEnded", "ended while nobody watched", True),
    ],
)
def test_the_workers_word_that_it_is_over(name: str, reason: str, is_over: bool) -> None:
    state = CallState("u1")
    state.begin(legs(("u1", "6", "b1", "2")))
    state.apply(event(name, Uniqueid="u1", reason=reason))
    assert state.is_over is is_over
    assert state.legs["u1"].is_alive is not is_over


@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        ("BUSY", Disposition.BUSY),
        ("NOANSWER", Disposition.NO_ANSWER),
        ("CONGESTION", Disposition.CONGESTION),
        ("CHANUNAVAIL", Disposition.CONGESTION),
        ("CANCEL", Disposition.FAILED),
    ],
)
def test_the_end_of_the_dialling_of_a_followed_call(status: str, disposition: Disposition) -> None:
    state = CallState("u1")
    state.begin(legs(("u1", "5", "", "")))
    state.apply(event("DialEnd", DestUniqueid="another", DialStatus="BUSY"))
    state.apply(event("DialEnd", DestUniqueid="u1", DialStatus=status))
    state.apply(event("Hangup", Uniqueid="u1", Cause="0"))
    assert state.outcome().disposition is disposition


def test_events_of_whoever_is_no_leg_change_nothing() -> None:
    state = CallState("u1")
    before: dict[str, Any] = dict(state.legs)
    for name in ("Newstate", "Hangup", "BridgeLeave", "Rename"):
        state.apply(event(name, Uniqueid="stranger", ChannelState="6", Newname="x"))
    state.apply(event("BridgeEnter", Uniqueid="stranger", BridgeUniqueid="b1", BridgeNumChannels="2"))
    assert (state.legs, state.bridged, state.is_dialled) == (before, None, False)


def test_of_a_swap_one_leaves_the_bridge() -> None:
    state = CallState("u1")
    state.begin(legs(("u1", "6", "b1", "2"), ("u2", "6", "b2", "2")))
    state.apply(event("BridgeEnter", Uniqueid="u2", SwapUniqueid="u1", BridgeUniqueid="b1", BridgeNumChannels="2"))
    assert (state.legs["u1"].bridge_id, state.legs["u2"].bridge_id) == ("", "b1")
