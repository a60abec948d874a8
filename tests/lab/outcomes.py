"""What becomes of calls: each way in which one can end, and each in which its channels change hands, seen by the
production user for events. Each call's ChannelId says what becomes of it."""

import asyncio

from tests.lab.asterisk import LabAsterisk
from tests.lab.session import Session, logged_in

# ChannelId -> what is dialled, of the calls that come to an end by themselves
PLACED = {
    "answered": "Local/102@default",
    "busy": "Local/busy@default",
    "congestion": "Local/congestion@default",
    "no-answer": "Local/noanswer@default",
    "no-such-extension": "Local/nobody@default",
    "no-such-technology": "Nope/100",
}


async def outcomes(asterisk: LabAsterisk) -> bytes:
    """All events of these calls, one call after the other."""
    async with (
        logged_in(asterisk, "observer") as actions,
        logged_in(asterisk, "amibus-events", events="on") as events,
    ):
        stage = _Stage(actions, events)
        for call, channel in PLACED.items():
            await stage.place(call, channel)
            await stage.until(b"Event: OriginateResponse", f"ActionID: {call}".encode())
            await stage.until_idle(asterisk)
        await stage.place("hung-up", "Local/30@ring")
        await stage.until(b"ChannelStateDesc: Ringing", b"Uniqueid: hung-up")
        await actions.action("Hangup", "Channel: hung-up", "Cause: 21")
        await stage.until_idle(asterisk)
        for scene in (stage.bridged, stage.optimised, stage.blind, stage.attended, stage.pickup):
            await scene()
            await stage.until_idle(asterisk)
        return bytes(events.received)


class _Stage:
    def __init__(self, actions: Session, events: Session) -> None:
        self._actions = actions
        self._events = events
        self._read_to = 0

    async def place(self, call: str, channel: str, *more: str) -> None:
        more = more or ("Application: Wait", "Data: 60" if call != "answered" else "Data: 1")
        headers = (f"Channel: {channel}", f"ChannelId: {call}", "Async: true", "Timeout: 800")
        await self._actions.action("Originate", *headers, *more, action_id=call)

    async def until(self, *texts: bytes) -> None:
        """Wait for a message that holds all of these, behind the one that was waited for last."""
        received = self._events.received
        while True:
            await self._events.wait_for(texts[0], start=self._read_to)
            found = received.index(texts[0], self._read_to)
            begin = received.rindex(b"\r\n\r\n", 0, found) + 2
            self._read_to = received.index(b"\r\n\r\n", found)
            if all(text + b"\r\n" in received[begin : self._read_to + 2] for text in texts):
                return

    async def until_idle(self, asterisk: LabAsterisk) -> None:
        while "0 active channels" not in await asterisk.cli("core show channels count"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # Asterisk tells nobody
        await self._events.action("Ping")

    async def hang_up(self, *channels: str) -> None:
        for channel in channels:
            await self._actions.action("Hangup", f"Channel: {channel}")

    async def bridged(self) -> None:
        """Extension 110 dials another: the far leg of the call and the one that it dialled are in a bridge."""
        await self.place("bridged", "Local/110@default")
        await self.until(b"Event: BridgeEnter", b"BridgeNumChannels: 2")
        await self.hang_up("bridged")

    async def optimised(self) -> None:
        await self.place("optimised", "Local/113@default")
        await self.until(b"Event: LocalOptimizationEnd")
        await self.hang_up("optimised")

    async def blind(self) -> None:
        await self.place("blind", "Local/112@default")
        await self.until(b"Event: BridgeEnter", b"BridgeNumChannels: 2", b"Linkedid: blind")
        await self._actions.action("BlindTransfer", "Channel: blind;2", "Context: default", "Exten: 200")
        await self.until(b"Event: MusicOnHoldStart", b"Linkedid: blind")
        await self.hang_up("blind")
        await self._actions.action("Hangup", "Channel: /Local.101@default.*/")

    async def attended(self) -> None:
        await self.place("attended", "Local/112@default")
        await self.until(b"Event: BridgeEnter", b"BridgeNumChannels: 2", b"Linkedid: attended")
        await self._actions.action("Atxfer", "Channel: attended;2", "Context: default", "Exten: 5")
        await self.until(b"Event: BridgeEnter", b"BridgeNumChannels: 2", b"Linkedid: attended")
        await self.hang_up("attended;2")
        await self.until(b"Event: AttendedTransfer")
        await self.hang_up("attended")
        await self._actions.action("Hangup", "Channel: /Local.101@default.*/")

    async def pickup(self) -> None:
        await self.place("pickup", "Local/114@default")
        await self.until(b"Event: Newstate", b"ChannelStateDesc: Ringing", b"Context: default", b"Linkedid: pickup")
        await self.place("picker", "Local/101@default", "Context: default", "Exten: 115", "Priority: 1")
        await self.until(b"Event: Pickup")
        await self.until(b"Event: BridgeEnter", b"BridgeNumChannels: 2", b"Linkedid: pickup")
        await self.hang_up("pickup", "picker")
        await self._actions.action("Hangup", "Channel: /Local.*/")
