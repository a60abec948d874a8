"""Calls that the tests place by the typed client, and what Asterisk says of their channels."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker import ActionFailed, Call, Channel, Server
from tests.live.harness import eventually

ANSWERING = "Local/101@default"
"""It answers at once and stays until somebody hangs it up."""

TONE = "Local/tone@default"
"""It answers with a tone: something to record."""

TIMEOUT_S = 60.0


@asynccontextmanager
async def calling(pbx: Server, channel: str = ANSWERING) -> AsyncIterator[Call]:
    """A call that is up, in application Wait; hung up at the end."""
    async with await pbx.originate(channel, application="Wait", data="300", timeout=TIMEOUT_S) as call:
        try:
            await call.result(timeout=TIMEOUT_S)
            await until_in(pbx, call.channel_id, "Wait")
            yield call
        finally:
            await end(pbx, call)


async def end(pbx: Server, *calls: Call) -> None:
    """Hang them up, whatever has become of them."""
    for call in calls:
        await hang_up(pbx, call.channel_id, f"{call.channel_id};2")


async def hang_up(pbx: Server, *uniqueids: str) -> None:
    """Hang up those of these channels that are still there: one may go because another did."""
    for uniqueid in uniqueids:
        if uniqueid in await live(pbx):
            try:
                await pbx.hangup(uniqueid, urgent=True, timeout=TIMEOUT_S)
            except ActionFailed:
                assert uniqueid not in await live(pbx)


async def live(pbx: Server) -> dict[str, Channel]:
    """All live channels by their Uniqueid."""
    return {channel.uniqueid: channel for channel in await pbx.channels(timeout=TIMEOUT_S)}


async def until_in(pbx: Server, uniqueid: str, application: str, data: str | None = None) -> Channel:
    """Wait until the channel runs that application."""

    async def look() -> Channel | None:
        channel = (await live(pbx)).get(uniqueid)
        found = channel is not None and channel.application == application and data in (None, channel.data)
        return channel if found else None

    found = await eventually(look, f"{uniqueid} is in {application}")
    assert found is not None
    return found


async def until_gone(pbx: Server, uniqueid: str) -> None:
    """Wait until the channel is no more."""

    async def look() -> bool:
        return uniqueid not in await live(pbx)

    await eventually(look, f"{uniqueid} is gone")


@dataclass
class Pair:
    """Two parties who talk to each other: extension 110 dialled 101."""

    call: Call
    caller: Channel
    called: Channel


@asynccontextmanager
async def talking(pbx: Server, exten: str = "110") -> AsyncIterator[Pair]:
    """A call from extension 110 to 101 (or from 111 to a tone), whose two channels are in one bridge."""
    async with calling(pbx, f"Local/{exten}@default") as call:

        async def bridged() -> list[Channel]:
            caller = (await live(pbx)).get(f"{call.channel_id};2")
            if caller is None or not caller.bridge_id:
                return []
            others = [each for each in (await live(pbx)).values() if each.bridge_id == caller.bridge_id]
            return [caller, *(each for each in others if each != caller)] if len(others) == 2 else []

        caller, called = await eventually(bridged, "two talk")
        yield Pair(call, caller, called)
        await hang_up(pbx, called.uniqueid, caller.uniqueid)
