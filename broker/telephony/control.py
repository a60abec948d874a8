"""What can be done to a call of one's own: the typed calls of `Call`, which act on the channel that it dialled."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Unpack

from broker.telephony.asking import Options
from broker.telephony.parking import ParkedCall
from broker.telephony.recording import Recording

if TYPE_CHECKING:
    from broker.telephony import TypedCalls


class ChannelControl(ABC):
    """The channel of a call, and what can be done to it: each as the call of `Server` that has the same name."""

    @property
    @abstractmethod
    def channel_id(self) -> str:
        """The Uniqueid of the channel."""

    @property
    @abstractmethod
    def _calls(self) -> "TypedCalls":
        """The server that has the channel."""

    async def hangup(self, cause: int | None = None, **options: Unpack[Options]) -> None:
        """Hang it up: see `Server.hangup`."""
        await self._calls.hangup(self.channel_id, cause, **options)

    async def redirect(
        self,
        exten: str,
        context: str = "default",
        priority: int | str = 1,
        *,
        other: str | None = None,
        other_exten: str | None = None,
        other_context: str | None = None,
        other_priority: int | str | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Send it, and with `other` a second channel, to an extension: see `Server.redirect`."""
        await self._calls.redirect(
            self.channel_id,
            exten,
            context,
            priority,
            other=other,
            other_exten=other_exten,
            other_context=other_context,
            other_priority=other_priority,
            **options,
        )

    async def hold_at(
        self, exten: str, context: str = "default", priority: int | str = 1, **options: Unpack[Options]
    ) -> str:
        """Dump it to an extension that keeps it: see `Server.hold_at`."""
        return await self._calls.hold_at(self.channel_id, exten, context, priority, **options)

    async def retrieve(
        self,
        by: str | None = None,
        *,
        exten: str | None = None,
        context: str = "default",
        priority: int | str = 1,
        **options: Unpack[Options],
    ) -> None:
        """Fetch it back by a live channel, or to an extension: see `Server.retrieve`."""
        await self._calls.retrieve(self.channel_id, by, exten=exten, context=context, priority=priority, **options)

    async def park(
        self,
        lot: str | None = None,
        *,
        space: str | None = None,
        stay_s: float | None = None,
        announce_to: str | None = None,
        back_to: str | None = None,
        **options: Unpack[Options],
    ) -> ParkedCall:
        """Park it: see `Server.park`."""
        return await self._calls.park(
            self.channel_id,
            lot,
            space=space,
            stay_s=stay_s,
            announce_to=announce_to,
            back_to=back_to,
            **options,
        )

    async def record(
        self, file: str, *, append: bool = False, only_while_bridged: bool = False, **options: Unpack[Options]
    ) -> Recording:
        """Record it: see `Server.record`."""
        return await self._calls.record(
            self.channel_id, file, append=append, only_while_bridged=only_while_bridged, **options
        )

    async def stop_recording(self, recording: Recording | str | None = None, **options: Unpack[Options]) -> None:
        """Stop recording it: see `Server.stop_recording`."""
        await self._calls.stop_recording(self.channel_id, recording, **options)

    async def getvar(self, name: str, **options: Unpack[Options]) -> str:
        """A variable of it: see `Server.getvar`."""
        return await self._calls.getvar(name, self.channel_id, **options)

    async def setvar(self, name: str, value: str | int | float, **options: Unpack[Options]) -> None:
        """Set a variable of it: see `Server.setvar`."""
        await self._calls.setvar(name, value, self.channel_id, **options)
