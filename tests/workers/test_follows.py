"""Calls that are followed though the bus did not place them."""

import pytest

from broker.ami import Event, Headers
from workers import follows as module
from workers.channels import Channel
from workers.follows import Follows, TooManyFollows


def event(name: str, *pairs: tuple[str, str], **headers: str) -> Event:
    return Event(Headers([("Event", name), *pairs, *headers.items()]))


def newchannel(uniqueid: str, linkedid: str = "u1") -> Event:
    return event("Newchannel", Uniqueid=uniqueid, Linkedid=linkedid)


def hangup(uniqueid: str) -> Event:
    return event("Hangup", Uniqueid=uniqueid, Linkedid="u1", Cause="16")


def alive(*pairs: tuple[str, str]) -> dict[str, Channel]:
    """Channels by Uniqueid and Linkedid."""
    return {uniqueid: Channel(uniqueid, linkedid, f"Local/{uniqueid}", "6", "Up") for uniqueid, linkedid in pairs}


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.ended: list[tuple[str, str]] = []
        self.follows = Follows(lambda: self.now, lambda target, reason: self.ended.append((target, reason)))

    def attribute(self, each: Event) -> list[str]:
        """Whose event it is; whoever it ends is told."""
        targets = self.follows.attribute(each)
        self.follows.tell_over()
        return targets


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_where_nobody_follows_nothing_belongs_to_anybody(rig: Rig) -> None:
    assert rig.attribute(newchannel("u1")) == []
    assert len(rig.follows) == 0


def test_a_call_is_followed_to_the_last_hangup_of_its_last_leg(rig: Rig) -> None:
    rig.follows.begin("u1", 9.0)
    rig.follows.see(alive(("u1", "u1"), ("u2", "u1"), ("x", "x")), {"u1": {"u1"}})
    assert rig.attribute(event("Newstate", Uniqueid="u2")) == ["u1"]
    assert rig.attribute(event("Newstate", Uniqueid="x")) == []
    assert rig.attribute(newchannel("u3", "u2")) == ["u1"]
    assert rig.attribute(newchannel("y", "x")) == []
    assert rig.attribute(hangup("u1")) == rig.attribute(hangup("u2")) == ["u1"]
    assert rig.attribute(newchannel("u4", "u1")) == ["u1"], "its first leg has gone, its Linkedid lives on"
    assert rig.attribute(hangup("u3")) == ["u1"]
    assert rig.ended == []
    assert rig.attribute(hangup("u4")) == ["u1"]
    assert rig.ended == [("u1", "hung-up")]
    assert rig.attribute(event("Newstate", Uniqueid="u1")) == []
    assert len(rig.follows) == 0


def test_two_may_follow_what_is_one_call(rig: Rig) -> None:
    for target in ("u1", "u2"):
        rig.follows.begin(target, 9.0)
        rig.follows.see(alive(("u1", "u1"), ("u2", "u1")), {target: {target}})
    assert rig.attribute(event("Newstate", Uniqueid="u1")) == ["u1", "u2"]
    rig.follows.give_up("u1")
    assert rig.attribute(event("Newstate", Uniqueid="u1")) == ["u2"]
    rig.attribute(hangup("u1"))
    rig.attribute(hangup("u2"))
    assert rig.ended == [("u2", "hung-up")]


def test_an_event_belongs_to_every_call_that_it_names(rig: Rig) -> None:
    for target in ("u1", "v1"):
        rig.follows.begin(target, 9.0)
    assert rig.attribute(event("DialBegin", Uniqueid="u1", DestUniqueid="v1")) == ["u1", "v1"]
    assert rig.attribute(event("VarSet", Uniqueid="x", Value="u1")) == []
    assert rig.attribute(event("UserEvent", ("UserEvent", "Mine"), ("Uniqueid", "u1"))) == []


def test_who_joins_a_lone_leg_is_heard(rig: Rig) -> None:
    def enters(uniqueid: str, channels: str) -> Event:
        return event("BridgeEnter", BridgeUniqueid="b", BridgeNumChannels=channels, Uniqueid=uniqueid)

    rig.follows.begin("u1", 9.0)
    assert rig.attribute(enters("u1", "1")) == ["u1"]
    assert rig.attribute(enters("x", "2")) == ["u1"]
    assert rig.attribute(enters("y", "3")) == [], "it is not alone any more"
    assert rig.attribute(enters("u1", "1")) == ["u1"]
    assert rig.attribute(event("BridgeLeave", BridgeUniqueid="b", BridgeNumChannels="0", Uniqueid="u1")) == ["u1"]
    assert rig.attribute(enters("x", "2")) == []
    assert rig.attribute(enters("u1", "1")) == ["u1"]
    rig.follows.look_away()
    assert rig.attribute(enters("x", "2")) == []


def test_the_time_limit(rig: Rig) -> None:
    rig.follows.begin("u1", 5.0)
    rig.follows.begin("u2", 9.0)
    rig.now = 5.1
    rig.follows.expire()
    assert rig.ended == [("u1", "time-limit")]
    assert rig.attribute(event("Newstate", Uniqueid="u1")) == []
    assert rig.attribute(event("Newstate", Uniqueid="u2")) == ["u2"]


def test_it_is_made_longer_and_never_shorter(rig: Rig) -> None:
    follow = rig.follows.begin("u1", 5.0)
    assert rig.follows.begin("u1", 9.0) is follow
    assert rig.follows.begin("u1", 1.0).until == 9.0
    assert len(rig.follows) == 1


def test_so_many_are_followed_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FOLLOWS", 2)
    rig.follows.begin("u1", 9.0)
    rig.follows.begin("u2", 9.0)
    with pytest.raises(TooManyFollows):
        rig.follows.begin("u3", 9.0)
    rig.follows.begin("u2", 10.0)
    rig.attribute(hangup("u1"))
    rig.follows.begin("u3", 9.0)


def test_what_ended_while_nobody_watched(rig: Rig) -> None:
    rig.follows.begin("u1", 9.0)
    rig.follows.begin("v1", 9.0)
    rig.attribute(newchannel("u2"))
    known = rig.follows.known()
    assert known == {"u1": {"u1", "u2"}, "v1": {"v1"}}
    rig.follows.see(alive(("u2", "u1")), known)
    assert rig.ended == [("v1", "ended-unseen")]
    rig.attribute(hangup("u2"))
    assert rig.ended[1:] == [("u1", "hung-up")]


def test_a_leg_that_came_after_the_question_is_not_taken_for_gone(rig: Rig) -> None:
    rig.follows.begin("u1", 9.0)
    known = rig.follows.known()
    rig.attribute(newchannel("u2"))
    rig.follows.see(alive(("u1", "u1")), known)
    assert rig.follows.known() == {"u1": {"u1", "u2"}}


def test_a_leg_that_hung_up_since_does_not_come_back(rig: Rig) -> None:
    rig.follows.begin("u1", 9.0)
    rig.attribute(newchannel("u2"))
    known = rig.follows.known()
    rig.attribute(hangup("u2"))
    rig.follows.see(alive(("u1", "u1"), ("u2", "u1")), known)
    assert rig.follows.known() == {"u1": {"u1"}}


def test_the_next_worker_finds_the_legs_by_their_linkedid(rig: Rig) -> None:
    rig.follows.begin("u1", 9.0)  # as it stands on Redis; its first leg has gone
    rig.follows.see(alive(("u2", "u1"), ("x", "x")), rig.follows.known())
    assert rig.follows.known() == {"u1": {"u2"}}
    rig.follows.begin("w2", 9.0)
    rig.follows.see(alive(("w1", "w1"), ("w2", "w1")), {"w2": {"w2"}})
    assert rig.follows.known()["w2"] == {"w1", "w2"}
    rig.follows.see(alive(), {"another": set()})
    assert rig.ended == []
