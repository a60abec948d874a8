"""Conferences (ConfBridge): who is in them, and what can be done to each."""

from dataclasses import dataclass, field
from typing import Final, Self, Unpack

from broker.ami import Headers
from broker.telephony.arguments import channel_name, file_name, given
from broker.telephony.asking import Asking, Options, items_of, known
from broker.telephony.reading import count, is_true, person, seconds, text

_NOBODY: Final = ("No active conferences", "No Conference by that name found")
"""Instead of an empty list: a conference is there for as long as somebody is in it."""


@dataclass(frozen=True, slots=True)
class ConferenceRoom:
    """A conference that is going on, as ConfbridgeListRooms has it."""

    name: str
    parties: int
    marked: int
    """How many of them are marked users."""
    is_locked: bool
    is_muted: bool
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a ConfbridgeListRooms."""
        return cls(
            name=text(headers, "Conference"),
            parties=count(headers, "Parties"),
            marked=count(headers, "Marked"),
            is_locked=is_true(headers, "Locked"),
            is_muted=is_true(headers, "Muted"),
            headers=headers,
        )


@dataclass(frozen=True, slots=True)
class ConferenceMember:
    """One member of a conference, as ConfbridgeList has it."""

    channel: str
    """The channel's name, by which it is kicked, muted and hung up."""
    uniqueid: str
    caller_number: str
    caller_name: str
    is_admin: bool
    is_marked: bool
    is_waiting: bool
    """Whether it waits for a marked user."""
    is_muted: bool
    is_talking: bool
    """Only with talk detection in its user profile."""
    since_s: int | None
    """How long ago it was answered, in seconds."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a ConfbridgeList."""
        return cls(
            channel=text(headers, "Channel"),
            uniqueid=text(headers, "Uniqueid"),
            caller_number=text(headers, "CallerIDNum"),
            caller_name=person(headers, "CallerIDName"),
            is_admin=is_true(headers, "Admin"),
            is_marked=is_true(headers, "MarkedUser"),
            is_waiting=is_true(headers, "Waiting"),
            is_muted=is_true(headers, "Muted"),
            is_talking=is_true(headers, "Talking"),
            since_s=seconds(headers, "AnsweredTime"),
            headers=headers,
        )


class Conference:
    """One conference by its name, as `Server.conference` gives it; it need not be going on.

        conference = pbx.conference("600")
        for member in await conference.members():
            await conference.mute(member.channel)

    All of it is of module app_confbridge.so. Members are given by their channel's name. What is done to a conference
    that is not going on, or to somebody who is not in it, raises `ActionFailed`.
    """

    def __init__(self, asking: Asking, name: str) -> None:
        self.name = given("conference", name)
        self._asking = asking

    def __repr__(self) -> str:
        return f"<Conference {self.name}>"

    async def members(self, **options: Unpack[Options]) -> list[ConferenceMember]:
        """Who is in it; nobody if it is not going on.

        AMI: ConfbridgeList (16 to 22; class `reporting`).
        """
        asked = {"Conference": self.name}
        items = await items_of(self._asking, "ConfbridgeList", "ConfbridgeList", *_NOBODY, headers=asked, **options)
        return [ConferenceMember.of(headers) for headers in items]

    async def kick(self, channel: str, **options: Unpack[Options]) -> None:
        """Throw one member out; its channel goes on in its dialplan. To end its call instead, `hangup` the channel.

        AMI: ConfbridgeKick (16 to 22; class `call`).
        """
        await self._do("ConfbridgeKick", channel, options)

    async def kick_all(self, **options: Unpack[Options]) -> None:
        """Throw everybody out, which ends the conference.

        AMI: ConfbridgeKick (16 to 22; class `call`).
        """
        await self._do("ConfbridgeKick", "all", options)

    async def mute(self, channel: str, **options: Unpack[Options]) -> None:
        """Mute one member: it hears the others, and they do not hear it.

        AMI: ConfbridgeMute (16 to 22; class `call`).
        """
        await self._do("ConfbridgeMute", channel, options)

    async def unmute(self, channel: str, **options: Unpack[Options]) -> None:
        """Let the others hear one member again.

        AMI: ConfbridgeUnmute (16 to 22; class `call`).
        """
        await self._do("ConfbridgeUnmute", channel, options)

    async def lock(self, **options: Unpack[Options]) -> None:
        """Let nobody else in, but for admins.

        AMI: ConfbridgeLock (16 to 22; class `call`).
        """
        await self._do("ConfbridgeLock", None, options)

    async def unlock(self, **options: Unpack[Options]) -> None:
        """Let others in again.

        AMI: ConfbridgeUnlock (16 to 22; class `call`).
        """
        await self._do("ConfbridgeUnlock", None, options)

    async def record(self, file: str | None = None, **options: Unpack[Options]) -> None:
        """Record the whole conference, to a file of that name (the ending says the format), relative to Asterisk's
        directory of recordings, `monitor` in its spool.

        Asterisk puts the unix time before the ending (`NAME-1795534453.wav`), unless the bridge profile says
        `record_file_timestamp = no`; without a name it makes one up. Refuses a name with a comma, which would begin
        MixMonitor's options.
        Raises `ActionFailed` if it is recorded already.

        AMI: ConfbridgeStartRecord (16 to 22; class `system`, which `deploy/manager.conf` does not give).
        """
        asked = {"Conference": self.name, "RecordFile": None if file is None else file_name(file)}
        await self._asking.request("ConfbridgeStartRecord", headers=asked, **known(options))

    async def stop_recording(self, **options: Unpack[Options]) -> None:
        """End the recording. Raises `ActionFailed` if there is none.

        AMI: ConfbridgeStopRecord (16 to 22; class `system`, which `deploy/manager.conf` does not give).
        """
        await self._do("ConfbridgeStopRecord", None, options)

    async def _do(self, action: str, channel: str | None, options: Options) -> None:
        member = None if channel is None else channel_name(channel)
        await self._asking.request(action, Conference=self.name, Channel=member, **known(options))


class Conferences(Asking):
    """Conferences."""

    def conference(self, name: str) -> Conference:
        """A conference by its name, to look into it and to steer it."""
        return Conference(self, name)

    async def conferences(self, **options: Unpack[Options]) -> list[ConferenceRoom]:
        """All conferences that are going on.

        AMI: ConfbridgeListRooms (16 to 22; module app_confbridge.so, class `reporting`).
        """
        items = await items_of(self, "ConfbridgeListRooms", "ConfbridgeListRooms", *_NOBODY, **options)
        return [ConferenceRoom.of(headers) for headers in items]
