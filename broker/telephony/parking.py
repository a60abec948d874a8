"""Parking calls: in a parking lot, or by sending them to music and fetching them back."""

import asyncio
from dataclasses import dataclass, field
from typing import Final, Self, Unpack

from broker.ami import Headers
from broker.errors import ResultTimeout
from broker.telephony.arguments import channel_name, given, milliseconds, refused
from broker.telephony.asking import Options, items_of, known
from broker.telephony.reading import number, person, seconds, text
from broker.telephony.redirection import Redirection

PARKED_WITHIN_S: Final = 5.0
"""How long after its answer to Park Asterisk may take until the call is in the lot."""

LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ParkedCall:
    """One call in a parking lot, as ParkedCalls has it."""

    lot: str
    space: str
    """The extension at which it is fetched back."""
    channel: str
    """The name of the parked channel."""
    uniqueid: str
    caller_number: str
    caller_name: str
    parker: str
    """Who parked it, as what is dialled when the time is over."""
    timeout_s: int | None
    """How long it may stay from now on."""
    duration_s: int | None
    """How long it has been there."""
    headers: Headers = field(repr=False, compare=False)
    """What Asterisk wrote."""

    @classmethod
    def of(cls, headers: Headers) -> Self:
        """Read a ParkedCall."""
        return cls(
            lot=text(headers, "Parkinglot"),
            space=text(headers, "ParkingSpace"),
            channel=text(headers, "ParkeeChannel"),
            uniqueid=text(headers, "ParkeeUniqueid"),
            caller_number=text(headers, "ParkeeCallerIDNum"),
            caller_name=person(headers, "ParkeeCallerIDName"),
            parker=text(headers, "ParkerDialString"),
            timeout_s=number(headers, "ParkingTimeout"),
            duration_s=seconds(headers, "ParkingDuration"),
            headers=headers,
        )


class Parking(Redirection):
    """Parking and fetching back."""

    async def hold_at(
        self, channel: str, exten: str, context: str = "default", priority: int | str = 1, **options: Unpack[Options]
    ) -> str:
        """Dump a live channel to an extension that keeps it (`MusicOnHold`, a long `Playback`), to fetch it back later.

            held = await pbx.hold_at(caller, "music", "holding")
            await pbx.retrieve(held, by=agent)

        Returns its Uniqueid, which stays the same whatever becomes of its name. Whoever it talked to is left alone,
        and most often hung up by its own dialplan; to keep that one as well, `redirect` both. Raises what `redirect`
        raises.

        AMI: Redirect, and Getvar for the Uniqueid (16 to 22; class `call`).
        """
        others = options.copy()
        others.pop("action_id", None)  # it is that of the Redirect
        uniqueid = await self.getvar("UNIQUEID", channel, **others)
        await self.redirect(uniqueid, exten, context, priority, **options)
        return uniqueid

    async def retrieve(
        self,
        channel: str,
        by: str | None = None,
        *,
        exten: str | None = None,
        context: str = "default",
        priority: int | str = 1,
        **options: Unpack[Options],
    ) -> None:
        """Fetch a channel back from where `hold_at` or `park` put it.

        Either `by` a live channel, with which it is then connected, or to an extension, such as that of a phone.
        Raises what `bridge` or `redirect` raises.

        AMI: Bridge, or Redirect (16 to 22; class `call`).
        """
        if (by is None) is (exten is None):
            raise refused("a channel is fetched back either by another channel or to an extension")
        if by is not None:
            await self.bridge(by, channel, **options)
        elif exten is not None:
            await self.redirect(channel, exten, context, priority, **options)

    async def park(
        self,
        channel: str,
        lot: str | None = None,
        *,
        space: str | None = None,
        stay_s: float | None = None,
        announce_to: str | None = None,
        back_to: str | None = None,
        **options: Unpack[Options],
    ) -> ParkedCall:
        """Park a live channel in a parking lot; returns when it is there, with its space.

        `lot` is the lot's name (default: that of the channel, or `default`), `space` the space wanted (Asterisk
        16 takes the first free one all the same).
        After `stay_s` (default: the lot's parkingtime) the call goes back to the channel `back_to`, or to where the
        lot's configuration says. `announce_to` is a live channel that is told the space. To fetch it back, dial its
        space, or `retrieve` it.

        Raises `ActionFailed`: no such channel, no such lot, no space; `ResultTimeout` if it is not seen in the lot
        within 5 s of Asterisk's answer, which may mean that it has left it again.

        AMI: Park and ParkedCalls (16 to 22; module res_parking.so, class `call`).
        """
        result = await self.request(
            "Park",
            Channel=channel_name(channel),
            Parkinglot=lot if lot is None else given("lot", lot),
            ParkingSpace=space,
            Timeout=milliseconds("stay_s", stay_s),
            AnnounceChannel=None if announce_to is None else channel_name(announce_to, "announce_to"),
            TimeoutChannel=None if back_to is None else channel_name(back_to, "back_to"),
            **known(options),
        )
        options.pop("action_id", None)
        wanted = channel.lower()
        give_up = asyncio.get_running_loop().time() + PARKED_WITHIN_S
        while asyncio.get_running_loop().time() < give_up:
            for parked in await self.parked_calls(lot, **options):
                if wanted in (parked.uniqueid.lower(), parked.channel.lower()):
                    return parked
            await asyncio.sleep(LOOK_S)
        raise ResultTimeout(result.action_id, PARKED_WITHIN_S)

    async def parked_calls(self, lot: str | None = None, **options: Unpack[Options]) -> list[ParkedCall]:
        """The calls in a parking lot, or in all of them. Raises `ActionFailed` for a lot that there is not.

        AMI: ParkedCalls (16 to 22; module res_parking.so, class `call`).
        """
        asked = {"ParkingLot": lot if lot is None else given("lot", lot)}
        items = await items_of(self, "ParkedCalls", "ParkedCall", headers=asked, **options)
        return [ParkedCall.of(headers) for headers in items]
