"""The channels that are alive: what they are, hanging them up, their variables."""

from dataclasses import dataclass, field
from typing import Self, Unpack

from broker.ami import Headers
from broker.telephony.arguments import cause_code, channel_name, given
from broker.telephony.asking import Asking, Options, items_of, known
from broker.telephony.reading import number, person, seconds, text


@dataclass(frozen=True, slots=True)
class Channel:
    """One live channel, as CoreShowChannels has it."""

    name: str
    """Such as `PJSIP/100-0000002a`."""
    uniqueid: str
    """Its identity, which stays the same whatever its name becomes; every call that wants a channel takes it, too."""
    linkedid: str
    """The Uniqueid of the oldest channel of those that belong together."""
    state: str
    """In words: `Down`, `Ring`, `Ringing`, `Up`, `Busy` ..."""
    context: str
    exten: str
    priority: int | None
    application: str
    """The dialplan application that it is in."""
    data: str
    """The application's arguments."""
    caller_number: str
    caller_name: str
    connected_number: str
    """The other side's, empty if it is not known."""
    connected_name: str
    account: str
    language: str
    duration_s: int | None
    """Since it was created."""
    bridge_id: str
    """The bridge that it is in, empty if none: channels with the same one hear each other."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a CoreShowChannel."""
        return cls(
            name=text(headers, "Channel"),
            uniqueid=text(headers, "Uniqueid"),
            linkedid=text(headers, "Linkedid"),
            state=text(headers, "ChannelStateDesc"),
            context=text(headers, "Context"),
            exten=text(headers, "Exten"),
            priority=number(headers, "Priority"),
            application=text(headers, "Application"),
            data=text(headers, "ApplicationData"),
            caller_number=text(headers, "CallerIDNum"),
            caller_name=person(headers, "CallerIDName"),
            connected_number=text(headers, "ConnectedLineNum"),
            connected_name=person(headers, "ConnectedLineName"),
            account=text(headers, "AccountCode"),
            language=text(headers, "Language"),
            duration_s=seconds(headers, "Duration"),
            bridge_id=text(headers, "BridgeId"),
            headers=headers,
        )


class Channels(Asking):
    """Live channels."""

    async def channels(self, **options: Unpack[Options]) -> list[Channel]:
        """All channels that are alive, in no particular order.

        AMI: CoreShowChannels, which locks nothing (16 to 22; class `reporting` or `system`).
        """
        return [
            Channel.of(headers) for headers in await items_of(self, "CoreShowChannels", "CoreShowChannel", **options)
        ]

    async def hangup(self, channel: str, cause: int | None = None, **options: Unpack[Options]) -> None:
        """Hang up a channel, by its name or Uniqueid.

        `cause` is the Q.850 cause that its other end is given, 0 to 127 (17 busy, 21 rejected; default: normal
        clearing, 16). Raises `ActionFailed` if there is no such channel (any more); `Refused` for a regular
        expression, which could be every channel. `urgent=True` overtakes whatever else is queued.

        AMI: Hangup (16 to 22; class `call` or `system`).
        """
        await self.request("Hangup", Channel=channel_name(channel), Cause=cause_code(cause), **known(options))

    async def getvar(self, name: str, channel: str | None = None, **options: Unpack[Options]) -> str:
        """A variable of a channel, or a global one; empty if it is not set. A dialplan function is evaluated.

        Raises `ActionFailed` if there is no such channel; `ActionRejected` (code `forbidden`) for functions that run
        programs or read files and databases, unless the worker's setting `allow` names them (`function:DB`).

        AMI: Getvar (16 to 22; class `call` or `reporting`).
        """
        where = None if channel is None else channel_name(channel)
        result = await self.request("Getvar", Variable=given("name", name), Channel=where, **known(options))
        return "" if result.response is None else result.response.get("Value", "")

    async def setvar(
        self, name: str, value: str | int | float, channel: str | None = None, **options: Unpack[Options]
    ) -> None:
        """Set a variable of a channel, or (without `channel`) a global one; or write a dialplan function.

        The value is taken as it is, but for blanks in front. Errors as those of `getvar`.

        AMI: Setvar (16 to 22; class `call`).
        """
        # An empty Channel would mean all: it sets a global variable.
        where = None if channel is None else channel_name(channel)
        await self.request("Setvar", Variable=given("name", name), Value=value, Channel=where, **known(options))
