"""Calls that the tests place over the bus, by plain Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from broker.codec import FINAL_STATES
from tests.live.producer import Message, Producer, Watch, new_id

ANSWERING = "Local/101@default"
"""It answers at once and stays until somebody hangs it up."""


@dataclass
class PlacedCall:
    """A call on its way, and what came on its action's channel so far."""

    action_id: str
    channel_id: str
    watch: Watch

    @staticmethod
    def id_of(pbx: Producer, action_id: str) -> str:
        """The ChannelId that the worker gives to a call without one."""
        return f"amibus-{pbx.server}-{action_id}"

    @property
    def legs(self) -> set[str]:
        """The Uniqueids of its channels, as their Newchannels say."""
        return {event["headers"]["Uniqueid"] for event in self.watch.events if event["name"] == "Newchannel"}

    async def left(self, pbx: Producer) -> set[str]:
        """Those of its legs that the bus still counts as alive."""
        return {uniqueid for uniqueid, action_id in (await pbx.legs()).items() if action_id == self.action_id}

    @property
    def hung_up(self) -> list[str]:
        """The Uniqueids of the legs that hung up, in order."""
        return [event["headers"]["Uniqueid"] for event in self.watch.events if event["name"] == "Hangup"]

    @property
    def last_of_its_channels(self) -> str:
        """The name of the last event but for OriginateResponse: that takes another path in Asterisk than the events of
        channels, and comes before the first or after the last of them if it likes."""
        return [name for name in self.watch.names if name != "OriginateResponse"][-1]


@asynccontextmanager
async def placed(
    pbx: Producer, *fields: str | bytes, channel: str = ANSWERING, action_id: str = ""
) -> AsyncIterator[PlacedCall]:
    """An Originate on the queue; its call is hung up at the end if it still lives."""
    action_id = action_id or new_id("originate")
    fields = fields or ("Application", "Wait", "Data", "300")
    async with pbx.watch(action_id) as watch:
        await pbx.add("Action", "Originate", "ActionID", action_id, "Channel", channel, *fields)
        call = PlacedCall(action_id, PlacedCall.id_of(pbx, action_id), watch)
        try:
            yield call
        except BaseException:
            # the worker may be the reason, so its answer is not waited for
            await pbx.add("Action", "Hangup", "Channel", call.channel_id, urgent=True)
            raise
        if call.channel_id in await pbx.legs():
            await pbx.ask("Hangup", "Channel", call.channel_id, urgent=True)


@asynccontextmanager
async def answered(pbx: Producer, *fields: str, channel: str = ANSWERING) -> AsyncIterator[PlacedCall]:
    """A call that is up, its first two legs seen."""
    async with placed(pbx, *fields, channel=channel) as call:
        result = await call.watch.result()
        assert result["state"] == "done", result
        # Asterisk sends OriginateResponse and the events of channels by different paths: it may come before them
        await call.watch.event("Newstate", Uniqueid=call.channel_id, ChannelStateDesc="Up")
        yield call


async def is_settled_and_over(pbx: Producer, action_id: str) -> bool:
    """Whether an Originate has its fate, and its call has ended: Asterisk may tell of either first."""
    record = await pbx.record(action_id)
    return record.get("state") in FINAL_STATES and record.get("call") == "ended"


async def is_idle(pbx: Producer) -> bool:
    """Whether nothing is queued or in flight, and no call is alive."""
    return (await pbx.legs(), await pbx.queued(), await pbx.pending()) == ({}, 0, 0)


def headers_of(events: list[Message]) -> list[dict[str, Any]]:
    """What Asterisk wrote of these events."""
    return [event["headers"] for event in events]
