"""The calls that the bus placed: which channels are their legs, and to which action an event belongs."""

import asyncio
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import replace
from typing import Final

from broker.ami import Event
from broker.codec import State
from broker.entry import Request
from broker.errors import ErrorCode
from broker.noise import without_noise
from workers.channels import UP, Channel
from workers.lone_legs import LoneLegs
from workers.notes import Note
from workers.outcome import Outcome, answered_outcome, ended_outcome, originate_outcome
from workers.placed_call import Call

UNSEEN_S: Final = 30.0
"""How long the events of a call's channel are still waited for once nobody waits for its OriginateResponse."""

UNTELLING: Final = ("", "0")
"""Hangup causes that give no cause."""

RECORD_FORGOTTEN: Final = Outcome(
    State.UNKNOWN, code=ErrorCode.RECORD_LOST, message="Redis went back in time and forgot it while it was under way"
)


class Calls:
    """Follows every call of the bus from its first Newchannel to the last Hangup of its last leg.

    A leg is the channel with the Originate's ChannelId, and every channel whose Newchannel carries a Linkedid of the
    call. Membership is by Uniqueid, and stays when calls are bridged or transferred: Linkedid then changes hands.
    """

    def __init__(
        self,
        now: Callable[[], float],
        record_ttl_ms: int,
        *,
        on_truth: Callable[[str, Outcome], None],
        on_note: Callable[[Note], None],
    ) -> None:
        """`on_truth` hears what became of an Originate that was settled as `unknown`; `on_note` of a change of a call
        that no event brought."""
        self._now = now
        self._ttl_ms = record_ttl_ms
        self._on_truth = on_truth
        self._on_note = on_note
        self._calls: dict[str, Call] = {}
        self._legs: dict[str, Call] = {}
        """By Uniqueid: the members of every call."""
        self._expected: dict[str, Call] = {}
        """By ChannelId: the calls of which no channel has been seen. Events of a channel that was there before are a
        stranger's: Asterisk refuses a second one with its id."""
        self._alone = LoneLegs()

    def __len__(self) -> int:
        return len(self._calls)

    def pass_on(self, *, on_truth: Callable[[str, Outcome], None], on_note: Callable[[Note], None]) -> None:
        """The tenure in which they were followed is over, and these listen in the next one of the same process."""
        self._on_truth, self._on_note = on_truth, on_note
        self.look_away()

    def expect(
        self, action_id: str, channel_id: str, sending_at: float | None = None, request: Request | None = None
    ) -> asyncio.Future[Outcome]:
        """An Originate is about to be written, or may have been. The future is what became of it: its
        OriginateResponse, or that its call was found answered. `sending_at` is in unix seconds by Redis' clock.

        `give_up` must follow when nobody waits any more.
        """
        call = self._calls.get(action_id)
        if call is None:
            call = self._calls[action_id] = Call(action_id, channel_id)
            self._expected[channel_id] = call
        if call.channel_id in self._expected and channel_id in call.others:  # `load` could not tell which of them it is
            call.others.add(call.channel_id)
            call.others.discard(channel_id)
            call.channel_id = channel_id
        call.request = request
        call.told_at = max(call.told_at, sending_at or 0.0)
        if call.response is None or call.response.cancelled():
            call.response = asyncio.get_running_loop().create_future()
            # Whoever waits for it may have found out elsewhere: that it was lost is no news then.
            without_noise(call.response)
            call.has_outcome = False
        return call.response

    def give_up(self, action_id: str, *, placed: bool) -> None:
        """Nobody waits for the OriginateResponse any more. `placed`: the call may be alive, follow it all the same."""
        call = self._calls.get(action_id)
        if call is None:
            return
        if call.response is not None:
            call.response.cancel()
        if call.is_over:
            self._forget_over(call)
        elif not placed and not call.state:
            self._forget(call)
        elif not call.state:
            self._forget_if_unseen_soon(call)

    def doubt(self, action_id: str, channel_id: str) -> None:
        """The Originate was settled as `unknown`: have the truth told when it is seen."""
        call = self._calls.get(action_id)
        if call is None:
            call = self._calls[action_id] = Call(action_id, channel_id)
            # Another call may have, or expect, that channel by now: then it is not this one's.
            if channel_id not in self._legs:
                self._expected.setdefault(channel_id, call)
        call.is_doubtful = True
        if call.truth is not None:  # seen since it was given up
            self._tell_truth(call, call.truth)
        elif not call.state:  # it may be heard of as long as its record is there
            asyncio.get_running_loop().call_later(self._ttl_ms / 1000, self._forget_unseen, call, True)

    def rule_out(self, action_id: str) -> None:
        """Its call is known not to be alive, and nobody saw a channel of it that could still hang up."""
        call = self._calls.get(action_id)
        if call is not None and not call.legs:
            self._forget(call)
            self._on_note(call.note(drop=call.unseen))

    def load(self, legs: Mapping[str, str], records: Mapping[str, Mapping[str, str]]) -> None:
        """Take over the legs (Uniqueid -> ActionID) that an earlier worker left; `records`: what the record of each
        action says, where there is one: of its fields `state`, `call` and `uniqueid` count. Of calls that are followed
        already more is known than that."""
        known = {*self._calls}
        for uniqueid, action_id in legs.items():
            if action_id in known:
                continue
            record = records.get(action_id, {"call": "dialing"})
            seen = record.get("call")
            call = self._calls.setdefault(action_id, Call(action_id, record.get("uniqueid", uniqueid)))
            call.is_doubtful = record.get("state") == State.UNKNOWN
            if not seen:  # it was to be placed: nobody has seen a channel of it
                self._expected[uniqueid] = call
                call.others |= {uniqueid} - {call.channel_id}
                continue
            call.state = seen if seen == "up" else "dialing"
            call.truth = answered_outcome() if seen == "up" else None
            call.is_unwatched = call.state == "dialing"
            call.legs.add(uniqueid)
            call.members.add(uniqueid)
            self._legs[uniqueid] = call

    def tell_loaded(self) -> None:
        """Tell the truth about what was taken over as `unknown` though its call was seen to be answered: the earlier
        worker was lost before it could."""
        for call in self._calls.values():
            if call.is_doubtful and call.truth is not None:
                self._tell_truth(call, call.truth)

    def unknown_of(self, legs: Mapping[str, str]) -> set[str]:
        """The ActionIDs of the legs (Uniqueid -> ActionID) whose calls are not followed: they have ended, or are yet to
        be placed."""
        return set(legs.values()) - self._calls.keys()

    def recall(self, legs: Mapping[str, str]) -> list[Note]:
        """Redis has gone back in time, and takes these legs for alive: what it is to be told of the calls followed."""
        gone = self._gone(legs)
        return [
            call.note(add=call.legs, drop=gone.get(call.action_id, []), fields=["call", call.state])
            for call in self._calls.values()
            if call.state
        ]

    def requests(self) -> dict[str, Request]:
        """By ActionID: the Originates of these calls that this process has placed."""
        return {call.action_id: call.request for call in self._calls.values() if call.request is not None}

    def fate(self, action_id: str) -> Outcome:
        """What became of one of them, whose record Redis has forgotten. Where that is not seen yet, it is to be settled
        as `unknown`, and the truth will be told."""
        call = self._calls[action_id]
        if call.truth is None:
            self.doubt(action_id, call.channel_id)
        outcome = call.truth or RECORD_FORGOTTEN
        return replace(outcome, channel=call.channel, uniqueid=call.channel_id) if call.channel else outcome

    def drop_gone(self, legs: Mapping[str, str]) -> list[Note]:
        """The same of nothing but the legs that are gone, also of calls that are only expected."""
        return [self._calls[action_id].note(drop=gone) for action_id, gone in self._gone(legs).items()]

    def _gone(self, legs: Mapping[str, str]) -> dict[str, list[str]]:
        """By ActionID: those of these legs of the calls in here that nobody will see hang up."""
        gone: dict[str, list[str]] = {}
        for uniqueid, action_id in legs.items():
            call = self._calls.get(action_id)
            # Also one that hung up before this worker took the call over, and that it has never heard of.
            if call is not None and uniqueid not in call.legs and uniqueid not in self._expected:
                gone.setdefault(action_id, []).append(uniqueid)
        return gone

    def end_forgotten(self, action_id: str, legs: Iterable[str]) -> Note:
        """A call that is over, and whose end Redis has forgotten: it takes these legs for alive."""
        return self._end(Call(action_id, ""), legs)

    def look_away(self) -> None:
        """From now on no events come; `see` ends it."""
        self._alone.clear()
        for call in self._calls.values():
            call.is_unwatched = call.is_unwatched or call.state == "dialing"

    def see(self, channels: Mapping[str, Channel]) -> list[Note]:
        """Compare with the channels that are alive (by Uniqueid): what was missed of the bus's own calls."""
        notes = []
        for channel_id, call in [*self._expected.items()]:
            if channel_id in channels:
                del self._expected[channel_id]
                self._legs[channel_id] = call
                notes.append(self._appear(call, channel_id, channels[channel_id].name))
        for channel_id, call in [*self._expected.items()]:
            if call.response is not None and not call.response.done():
                continue  # whoever waits for it finds out himself
            if call.state:  # another channel of it was seen
                del self._expected[channel_id]
            else:
                self._forget(call)
            notes.append(call.note(drop=[channel_id]))
        for call in [*self._calls.values()]:
            channel = channels.get(call.channel_id)
            if call.state != "dialing" or channel is None:
                continue
            call.is_unwatched = False
            if channel.state == UP:
                notes.append(self._answer(call))
                if call.response is not None and not call.response.done():
                    call.response.set_result(answered_outcome())
        return notes

    def alive(self) -> set[str]:
        """The Uniqueids of all live legs."""
        return {uniqueid for call in self._calls.values() for uniqueid in call.legs}

    def awaited(self) -> set[str]:
        """The ChannelIds of all calls whose outcome is to come."""
        return {call.channel_id for call in self._calls.values() if call.lacks_outcome}

    def has_outcome(self, action_id: str) -> bool:
        """Whether the OriginateResponse is here: it will be delivered, however long Redis takes."""
        call = self._calls.get(action_id)
        return call is not None and call.has_outcome

    def is_followed(self, action_id: str) -> bool:
        """Whether a channel of its call was seen, or its outcome is waited for."""
        call = self._calls.get(action_id)
        return call is not None and (bool(call.state) or call.lacks_outcome)

    def lose(self, channel_ids: Collection[str], error: Exception) -> None:
        """The outcome of these calls cannot be seen any more: whoever waits for one gets the error."""
        for call in [*self._calls.values()]:
            if call.channel_id in channel_ids and call.lacks_outcome and call.response is not None:
                call.response.set_exception(error)

    def end_unseen(self, legs: Iterable[str]) -> list[tuple[Note, str | None]]:
        """Legs that were alive and are no more, whose Hangup nobody saw.

        Returns the notes, each with the ActionID of a call that is over by it.
        """
        ended = []
        for uniqueid in legs:
            call = self._legs.get(uniqueid)
            if call is not None and uniqueid in call.legs:
                note = self._hang_up(call, uniqueid, "")
                ended.append((note, call.action_id if call.state == "ended" else None))
        return ended

    def attribute(self, event: Event) -> tuple[list[str], list[Note]]:
        """The ActionIDs that an event belongs to, and what it changes of their calls."""
        legs = self._legs
        if not legs and not self._calls:
            return [], []
        name = event.name
        if name == "Newchannel":
            self._join(event)
        # Nearly all events are of other calls: found out without a step of Python for each header.
        joined = self._alone.joined_by(event)
        if (
            not joined
            and name != "OriginateResponse"
            and legs.keys().isdisjoint([value for _, value in event.headers.pairs])
        ):
            return [], []
        named = {action_id: self._calls[action_id] for action_id in joined if action_id in self._calls}
        for uniqueid in named_legs(event, legs):
            named[legs[uniqueid].action_id] = legs[uniqueid]
        if name == "OriginateResponse":  # the one event to which Asterisk itself attaches the ActionID
            call = self._calls.get(event.action_id or "")
            if call is not None:
                call.has_outcome = True
                named[call.action_id] = call
        if not named:
            return [], []
        self._alone.note(event, named)
        return list(named), self._follow(name, event)

    def deliver(self, event: Event) -> None:
        """Hand an OriginateResponse to whoever waits for it; called once it is out, so that the result comes after."""
        call = self._calls.get(event.action_id or "")
        if call is None:
            return
        outcome = originate_outcome(event.headers)
        self._learn(call, outcome)
        if call.response is not None and not call.response.done():
            call.response.set_result(outcome)
            if call.is_over:
                self._forget(call)
        if outcome.state is State.FAILED and not call.state:
            self._forget_if_unseen_soon(call)

    def _learn(self, call: Call, outcome: Outcome) -> None:
        call.truth = call.truth or outcome
        if call.is_doubtful:
            self._tell_truth(call, outcome)

    def _tell_truth(self, call: Call, outcome: Outcome) -> None:
        call.is_doubtful = False
        self._on_truth(call.action_id, outcome)

    def _join(self, event: Event) -> None:
        """A new channel is a leg if it is the expected one, or carries the Linkedid of a leg."""
        uniqueid, linkedid = event.headers.get("Uniqueid") or "", event.headers.get("Linkedid") or ""
        call = self._expected.pop(uniqueid, None) or self._legs.get(linkedid)
        if call is not None and uniqueid and uniqueid not in self._legs:
            self._legs[uniqueid] = call
            call.members.add(uniqueid)

    def _follow(self, name: str, event: Event) -> list[Note]:
        headers = event.headers
        if name == "OriginateResponse":
            call = self._calls.get(event.action_id or "")
            if call is not None and call.state == "dialing" and (headers.get("Response") or "").lower() == "success":
                return [self._answer(call)]
            return []
        uniqueid = headers.get("Uniqueid")
        call = self._legs.get(uniqueid or "")
        if call is None or uniqueid is None:
            return []
        if name == "Newchannel":
            return [self._appear(call, uniqueid, headers.get("Channel") or "")]
        if (
            name == "Newstate"
            and headers.get("ChannelState") == UP
            and uniqueid == call.channel_id
            and call.state == "dialing"
        ):
            return [self._answer(call)]
        if name == "Hangup" and uniqueid in call.legs:
            return [self._hang_up(call, uniqueid, headers.get("Cause") or "")]
        return []

    def _appear(self, call: Call, uniqueid: str, channel: str) -> Note:
        call.legs.add(uniqueid)
        call.members.add(uniqueid)
        if call.state:
            return call.note(add=[uniqueid])
        call.state = "dialing"
        call.channel = channel
        return call.note(add=[uniqueid], fields=["call", "dialing", "channel", channel, "uniqueid", uniqueid])

    def _answer(self, call: Call) -> Note:
        call.state = "up"
        self._learn(call, answered_outcome())
        return call.note(fields=["call", "up", "answered_at", self._time_of(call)])

    def _hang_up(self, call: Call, uniqueid: str, cause: str) -> Note:
        call.legs.discard(uniqueid)
        # That of the dialled channel, unless it says nothing: of a busy Local call only the second leg knows why (seen
        # on 22.10.1: 0 and 17).
        if call.cause in UNTELLING or (uniqueid == call.channel_id and cause not in UNTELLING):
            call.cause = cause
        if call.legs:
            return call.note(drop=[uniqueid])
        if call.is_unwatched and call.state == "dialing":
            call.cause = ""  # as of an end that nobody saw: what came before it nobody did
        elif call.state == "dialing" and cause:
            self._learn(call, ended_outcome(call.cause))
        call.state = "ended"
        gone = [uniqueid, *(each for each in call.unseen if each in self._expected)]
        if call.is_over:
            self._forget_over(call)
        return self._end(call, gone)

    def _end(self, call: Call, legs: Iterable[str]) -> Note:
        fields = ["call", "ended", "cause", call.cause, "ended_at", self._time_of(call)]
        return call.note(drop=legs, fields=fields, ttl_ms=self._ttl_ms)

    def _time_of(self, call: Call) -> str:
        call.told_at = max(call.told_at, self._now())
        return f"{call.told_at:.6f}"

    def _forget_over(self, call: Call) -> None:
        if call.response is None or not call.response.cancelled():
            self._forget(call)
        else:  # it is perhaps being settled as `unknown`: then `doubt` asks what was seen of it
            asyncio.get_running_loop().call_later(UNSEEN_S, self._forget, call)

    def _forget_if_unseen_soon(self, call: Call) -> None:
        # The events of its channel may still be on their way: Asterisk sends them by another path.
        asyncio.get_running_loop().call_later(UNSEEN_S, self._forget_unseen, call)

    def _forget_unseen(self, call: Call, even_doubtful: bool = False) -> None:
        if call.state or self._calls.get(call.action_id) is not call:
            return
        if call.response is not None and not call.response.done():
            return
        if not even_doubtful:  # then its ChannelId may be another's by now
            self._on_note(call.note(drop=call.unseen))
        if even_doubtful or not call.is_doubtful:
            self._forget(call)

    def _forget(self, call: Call) -> None:
        if self._calls.get(call.action_id) is call:
            del self._calls[call.action_id]
        for uniqueid in call.unseen:
            if self._expected.get(uniqueid) is call:
                del self._expected[uniqueid]
        for uniqueid in (call.channel_id, *call.members):
            if self._legs.get(uniqueid) is call:
                del self._legs[uniqueid]


def named_legs(event: Event, legs: Container[str]) -> list[str]:
    """Those of these Uniqueids that one of the event's `...Uniqueid` headers names, each as often as it does."""
    return [value for header, value in _of_asterisk(event) if value in legs and header.lower().endswith("uniqueid")]


def _of_asterisk(event: Event) -> list[tuple[str, str]]:
    """The headers that Asterisk itself wrote: in a UserEvent those behind its name are the sender's own."""
    pairs = event.headers.pairs
    if event.name != "UserEvent":
        return pairs
    behind = next((at for at, (name, _) in enumerate(pairs) if name == "UserEvent"), len(pairs))
    return pairs[:behind]
