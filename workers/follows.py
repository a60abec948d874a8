"""Calls that somebody follows, though the bus did not place them: their legs, and what belongs to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.ami import Event
from broker.call_state import TIME_LIMIT
from workers.calls import named_legs
from workers.channels import Channel
from workers.lone_legs import LoneLegs

MAX_FOLLOWS: Final = 1000
"""Calls followed at once. Each costs some hundred bytes and, of each of its events, one message more."""

HUNG_UP: Final = "hung-up"
UNSEEN: Final = "ended-unseen"
"""Why a follow ended, beside TIME_LIMIT."""


class TooManyFollows(Exception):
    """So many calls are followed already."""


@dataclass(slots=True)
class Follow:
    """One call that is followed."""

    target: str
    """The Uniqueid that it is followed by."""
    until: float
    """Unix seconds by Redis' clock."""
    legs: set[str] = field(default_factory=set)
    """Uniqueids of its live channels."""
    members: set[str] = field(default_factory=set)
    """Uniqueids of all that it has had: a leg dialled late carries the Linkedid of one that may have gone."""


class Follows:
    """Follows calls from the moment on at which somebody asks for it, to their end or to a time limit.

    The legs are the channel asked for, those that then have the same Linkedid, and every channel whose Newchannel
    carries a Linkedid of the call. Membership is by Uniqueid and stays, as with the bus's own calls.
    """

    def __init__(self, now: Callable[[], float], on_end: Callable[[str, str], None]) -> None:
        """`on_end` hears the target of a follow that has ended, and why; of a call that is over it hears before its
        last event is out, and has to speak after it."""
        self._now = now
        self._on_end = on_end
        self._follows: dict[str, Follow] = {}
        self._members: dict[str, list[Follow]] = {}
        """By Uniqueid."""
        self._alone = LoneLegs()
        self._over: list[str] = []

    def __len__(self) -> int:
        return len(self._follows)

    def pass_on(self, on_end: Callable[[str, str], None]) -> None:
        """The tenure in which they were followed is over, and this one listens in the next of the same process."""
        self._on_end = on_end
        self.look_away()

    def deadlines(self) -> dict[str, float]:
        """By target: until when it is followed."""
        return {follow.target: follow.until for follow in self._follows.values()}

    def begin(self, target: str, until: float) -> Follow:
        """Follow this channel, or go on following it for longer. Raises `TooManyFollows`."""
        follow = self._follows.get(target)
        if follow is not None:
            follow.until = max(follow.until, until)
            return follow
        if len(self._follows) >= MAX_FOLLOWS:
            raise TooManyFollows(f"{MAX_FOLLOWS} calls are followed already")
        follow = self._follows[target] = Follow(target, until)
        self._join(follow, target)
        return follow

    def give_up(self, target: str) -> None:
        """Follow it no more, without a word."""
        follow = self._follows.pop(target, None)
        if follow is None:
            return
        for uniqueid in follow.members:
            others = [each for each in self._members[uniqueid] if each is not follow]
            if others:
                self._members[uniqueid] = others
            else:
                del self._members[uniqueid]

    def get(self, target: str) -> Follow | None:
        """What is known of it; None if it is not followed (any more)."""
        return self._follows.get(target)

    def known(self) -> dict[str, set[str]]:
        """The live legs of every followed call, by its target: what to `see` with after a look at the channels."""
        return {follow.target: set(follow.legs) for follow in self._follows.values()}

    def see(self, channels: Mapping[str, Channel], known: Mapping[str, set[str]]) -> None:
        """Compare with the channels that are alive (by Uniqueid): what nobody saw begin joins, what nobody saw end
        leaves. `known` are the targets concerned, with the legs that were known before it was asked what is alive: a
        leg that came later need not be in the answer."""
        by_linkedid: dict[str, list[str]] = {}
        for channel in channels.values():
            by_linkedid.setdefault(channel.linkedid, []).append(channel.uniqueid)
        for target, legs in known.items():
            follow = self._follows.get(target)
            if follow is None:
                continue
            linkedids = {channels[target].linkedid if target in channels else target, target}
            for linkedid in linkedids:
                for uniqueid in by_linkedid.get(linkedid, ()):
                    self._join(follow, uniqueid)
            follow.legs -= legs - channels.keys()
            if not follow.legs:
                self._end(follow, UNSEEN)

    def look_away(self) -> None:
        """From now on no events come; `see` ends it."""
        self._alone.clear()

    def expire(self) -> None:
        """End what has reached its time limit."""
        now = self._now()
        for follow in [follow for follow in self._follows.values() if follow.until < now]:
            self._end(follow, TIME_LIMIT)

    def attribute(self, event: Event) -> list[str]:
        """The targets of the followed calls that an event belongs to."""
        members = self._members
        if not members:
            return []
        if event.name == "Newchannel":
            for follow in tuple(members.get(event.headers.get("Linkedid", ""), ())):
                self._join(follow, event.headers.get("Uniqueid", ""))
        joined = self._alone.joined_by(event)
        if not joined and members.keys().isdisjoint([value for _, value in event.headers.pairs]):
            return []
        named = {target: self._follows[target] for target in joined if target in self._follows}
        for uniqueid in named_legs(event, members):
            named.update((follow.target, follow) for follow in members[uniqueid])
        self._alone.note(event, named)
        if event.name == "Hangup":
            for follow in tuple(members.get(event.headers.get("Uniqueid", ""), ())):
                follow.legs.discard(event.headers.get("Uniqueid", ""))
                if not follow.legs:
                    self._over.append(follow.target)
        return list(named)

    def tell_over(self) -> None:
        """End the follows whose calls the event that was attributed last has ended; called once it is on its way."""
        while self._over:
            follow = self._follows.get(self._over.pop())
            if follow is not None:
                self._end(follow, HUNG_UP)

    def _join(self, follow: Follow, uniqueid: str) -> None:
        if uniqueid and uniqueid not in follow.members:
            follow.members.add(uniqueid)
            follow.legs.add(uniqueid)
            self._members.setdefault(uniqueid, []).append(follow)

    def _end(self, follow: Follow, reason: str) -> None:
        self.give_up(follow.target)
        self._on_end(follow.target, reason)
