"""What is known of a call, folded from its events: how the dialling went, its legs and their names, its bridges, its
end. Pure: no Redis, no waiting, the same for calls of the bus and for those that are merely followed."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from broker.ami import Headers
from broker.codec import BusEvent, Result, State
from broker.errors import ErrorCode
from broker.record import Record

UP: Final = "6"
"""ChannelState of an answered channel (AST_STATE_UP)."""

UNTELLING: Final = ("", "0")
"""Hangup causes that give no cause."""

ENDED: Final = ("BusCallEnded", "BusFollowEnded")
"""The worker's own word that a call is over, or is not followed any more."""

TIME_LIMIT: Final = "time-limit"
"""`reason` of a BusFollowEnded that says nothing about the call."""


class Disposition(StrEnum):
    """How the dialling of a call went."""

    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no answer"
    """It rang, or was tried, for as long as it was to."""
    CONGESTION = "congestion"
    """Refused, rejected, or no way there."""
    FAILED = "failed"
    """Anything else: no such extension, no such technology, hung up by somebody before the answer."""


_BY_REASON: Final = {
    3: Disposition.NO_ANSWER,
    5: Disposition.BUSY,
    8: Disposition.CONGESTION,
}
"""`Reason` of an OriginateResponse (pbx.c, pbx_dial_reason; Asterisk 16 to 22) of a call that was not answered."""

_BY_STATUS: Final = {
    "BUSY": Disposition.BUSY,
    "NOANSWER": Disposition.NO_ANSWER,
    "CONGESTION": Disposition.CONGESTION,
    "CHANUNAVAIL": Disposition.CONGESTION,
}
"""`DialStatus` of a DialEnd, where there is no Reason."""

_BY_CAUSE: Final = {
    17: Disposition.BUSY,
    18: Disposition.NO_ANSWER,
    19: Disposition.NO_ANSWER,
    21: Disposition.CONGESTION,
    34: Disposition.CONGESTION,
    38: Disposition.CONGESTION,
    42: Disposition.CONGESTION,
}
"""Causes of a Hangup (Q.850), where there is neither."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of a call, as far as it has come."""

    disposition: Disposition
    reason: int | None = None
    """Asterisk's `Reason`: 0 failed, 1 hung up, 3 no answer, 4 answered, 5 busy, 8 congestion. None where it gave none,
    as of a call that was not placed over the bus."""
    cause: int | None = None
    """The cause of the hangup (Q.850: 16 normal, 17 busy, 19 no answer, ...). None before it, and where nobody saw it.
    """
    cause_text: str = ""
    """The same in Asterisk's words."""
    message: str = ""
    """Why it failed, in one sentence."""
    uniqueid: str = ""
    """Of the channel that was dialled, or is followed."""
    channel: str = ""
    """Its name; empty where there never was one."""

    @property
    def is_answered(self) -> bool:
        """Whether somebody, or something, answered."""
        return self.disposition is Disposition.ANSWERED


@dataclass(frozen=True, slots=True)
class Leg:
    """One channel of a call."""

    uniqueid: str
    channel: str
    """Its name now, or when it hung up."""
    names: tuple[str, ...]
    """All names that it has had, the present one last: a rename or a masquerade gives another."""
    state: str = ""
    """`Down`, `Ring`, `Ringing`, `Up`, `Busy` ... as Asterisk says it."""
    bridge_id: str = ""
    """The bridge that it is in, empty while it is in none."""
    is_alive: bool = True
    cause: int | None = None
    """The cause of its hangup."""
    cause_text: str = ""


@dataclass(frozen=True, slots=True)
class Bridge:
    """Two or more channels that hear each other, at least one of them a leg of the call."""

    bridge_id: str
    legs: tuple[str, ...]
    """The Uniqueids of the call's own legs in it."""
    channels: int
    """How many channels are in it, those of others included."""


@dataclass(slots=True)
class CallState:
    """The fold. `uniqueid` is the channel that was dialled, or is followed; `action_id` the Originate's, if it is the
    bus's own call."""

    uniqueid: str
    action_id: str = ""
    legs: dict[str, Leg] = field(default_factory=dict)
    """By Uniqueid, in the order in which they came."""
    is_answered: bool = False
    is_over: bool = False
    """Its last leg has hung up. (A call that has no legs yet is not over.)"""
    bridged: Bridge | None = None
    """The first bridge that it was in with another channel."""
    _reason: int | None = None
    _has_failed: bool = False
    _status: str = ""
    _cause: int | None = None
    _cause_text: str = ""
    _message: str = ""

    # -- in

    def apply(self, event: BusEvent) -> None:
        """Take the next event of the call."""
        headers, name = event.headers, event.name
        leg = self.legs.get(headers.get("Uniqueid", ""))
        if name == "Newchannel":
            self._appear(headers)
        elif name == "OriginateResponse":
            self._hear_response(headers)
        elif name == "DialEnd" and headers.get("DestUniqueid") == self.uniqueid:
            self._status = headers.get("DialStatus", "")
        elif name == "BridgeEnter":
            self._enter(headers)
        elif name in ENDED:
            if headers.get("reason") != TIME_LIMIT:
                self.end()
        elif leg is None:
            return
        elif name == "Newstate":
            self._change(leg, headers)
        elif name == "Rename":
            self._rename(leg, headers.get("Newname", ""))
        elif name == "BridgeLeave":
            self.legs[leg.uniqueid] = replace(leg, bridge_id="")
        elif name == "Hangup":
            self._hang_up(leg, headers)

    def begin(self, legs: list[Headers]) -> None:
        """Take the legs that were alive when the following began: the items of the answer to BusFollow."""
        for headers in legs:
            uniqueid = headers.get("Uniqueid", "")
            if uniqueid and uniqueid not in self.legs:
                self._appear(headers)
            if uniqueid in self.legs and headers.get("BridgeUniqueid"):
                self._enter(headers)

    def settle(self, result: Result) -> None:
        """Take what became of the Originate."""
        for headers in result.events:
            if headers.get("Event") == "OriginateResponse":
                self._hear_response(headers)
        if result.state is State.DONE:
            self._answer()
        elif result.state is State.FAILED:
            self._has_failed = True
            self._message = result.error_message or ""
            if result.error_code != ErrorCode.ORIGINATE_FAILED:
                self.is_over = True  # refused at once: there never was a channel

    def recall(self, record: Record) -> None:
        """Take what the record knows, where events were missed."""
        if record.call == "up" or record.get("answered_at"):
            self._answer()
        self._reason = _number(record.get("reason")) if self._reason is None else self._reason
        if record.call == "ended":
            cause = _number(record.get("cause"))
            if cause != self._cause:
                self._cause, self._cause_text = cause, ""
        if record.get("channel") and self.uniqueid not in self.legs and record.call:
            self._appear(Headers([("Uniqueid", self.uniqueid), ("Channel", record.get("channel"))]))
        if record.call == "ended":
            self.end()

    def end(self) -> None:
        """It is over, whoever saw the end: it has no live legs."""
        self.is_over = True
        for leg in [*self.legs.values()]:
            if leg.is_alive:
                self.legs[leg.uniqueid] = replace(leg, is_alive=False, bridge_id="")

    # -- out

    @property
    def is_dialled(self) -> bool:
        """Whether it is known how the dialling went."""
        return self.is_answered or self._has_failed or self.is_over

    @property
    def channel(self) -> str:
        """The name of the channel that was dialled, or is followed; empty before there is one."""
        leg = self.legs.get(self.uniqueid)
        return "" if leg is None else leg.channel

    def outcome(self) -> CallOutcome:
        """What became of it so far; to be asked once `is_dialled`."""
        return CallOutcome(
            disposition=self._disposition(),
            reason=self._reason,
            cause=self._cause,
            cause_text=self._cause_text,
            message=self._message,
            uniqueid=self.uniqueid,
            channel=self.channel,
        )

    def _disposition(self) -> Disposition:
        if self.is_answered:
            return Disposition.ANSWERED
        if self._reason is not None:
            return _BY_REASON.get(self._reason, Disposition.FAILED)
        return _BY_STATUS.get(self._status) or _BY_CAUSE.get(self._cause or 0, Disposition.FAILED)

    # -- steps

    def _appear(self, headers: Headers) -> None:
        uniqueid, channel = headers.get("Uniqueid", ""), headers.get("Channel", "")
        known = self.legs.get(uniqueid)
        if known is not None:  # it was there when the following began
            return
        self.legs[uniqueid] = leg = Leg(uniqueid, channel, (channel,), headers.get("ChannelStateDesc", ""))
        self.is_over = False
        self._change(leg, headers)

    def _change(self, leg: Leg, headers: Headers) -> None:
        self.legs[leg.uniqueid] = replace(leg, state=headers.get("ChannelStateDesc", leg.state))
        if leg.uniqueid == self.uniqueid and headers.get("ChannelState") == UP:
            self._answer()

    def _answer(self) -> None:
        self.is_answered = True
        self._has_failed = False

    def _rename(self, leg: Leg, name: str) -> None:
        if name and name != leg.channel:
            self.legs[leg.uniqueid] = replace(leg, channel=name, names=(*leg.names, name))

    def _hear_response(self, headers: Headers) -> None:
        action_id = headers.get("ActionID", "")
        # Asterisk tells of a second Originate with the same ChannelId, which it refuses, by the Uniqueid of the first.
        is_ours = action_id == self.action_id if self.action_id else headers.get("Uniqueid") == self.uniqueid
        if not is_ours:
            return
        if headers.get("Response", "").lower() == "success":
            self._reason = _number(headers.get("Reason", ""))
            self._answer()
        elif self.action_id:
            self._reason = _number(headers.get("Reason", ""))
            self._has_failed = not self.is_answered

    def _enter(self, headers: Headers) -> None:
        bridge_id, uniqueid = headers.get("BridgeUniqueid", ""), headers.get("Uniqueid", "")
        swapped = self.legs.get(headers.get("SwapUniqueid", ""))
        if swapped is not None:
            self.legs[swapped.uniqueid] = replace(swapped, bridge_id="")
        if uniqueid in self.legs:
            self.legs[uniqueid] = replace(self.legs[uniqueid], bridge_id=bridge_id)
        channels = _number(headers.get("BridgeNumChannels", "")) or 0
        ours = tuple(leg.uniqueid for leg in self.legs.values() if leg.bridge_id == bridge_id)
        if self.bridged is None and channels > 1 and ours:
            self.bridged = Bridge(bridge_id, ours, channels)

    def _hang_up(self, leg: Leg, headers: Headers) -> None:
        cause, text = headers.get("Cause", ""), headers.get("Cause-txt", "")
        self.legs[leg.uniqueid] = replace(leg, is_alive=False, bridge_id="", cause=_number(cause), cause_text=text)
        self._blame(leg.uniqueid, cause, text)
        self.is_over = not any(leg.is_alive for leg in self.legs.values())

    def _blame(self, uniqueid: str, cause: str, text: str) -> None:
        # That of the dialled channel, unless it says nothing: of a busy Local call only the second leg knows why.
        if self._cause in (None, 0) or (uniqueid == self.uniqueid and cause not in UNTELLING):
            number = _number(cause)
            self._cause, self._cause_text = number, text if number is not None else ""


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
