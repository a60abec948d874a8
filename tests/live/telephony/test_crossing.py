"""Two calls at once whose channels meet, change hands or make way: each keeps its own legs and events, and its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from broker import BusEvent, Call, Channel, Server
from tests.live.harness import eventually
from tests.live.telephony.calls import ANSWERING, TIMEOUT_S, live, until_gone, until_in


@dataclass
class Heard:
    """A call, and all its events."""

    call: Call
    events: list[BusEvent] = field(default_factory=list)

    @property
    def legs(self) -> set[str]:
        """The Uniqueids of the call's legs, by the client's account."""
        return {leg.uniqueid for leg in self.call.legs}

    def named(self, name: str) -> list[BusEvent]:
        """Its events of that name."""
        return [event for event in self.events if event.name == name]

    async def listen(self) -> None:
        async for event in self.call.events():
            self.events.append(event)


@asynccontextmanager
async def two_calls(pbx: Server, one: str, other: str | None = None) -> AsyncIterator[tuple[Heard, Heard]]:
    """Two calls to these channels, listened to to their ends, which come with the end of the block at the latest."""
    calls = [
        await pbx.originate(channel, application="Wait", data="300", timeout=TIMEOUT_S)
        for channel in (one, other or one)
    ]
    heard = Heard(calls[0]), Heard(calls[1])
    listening = [asyncio.create_task(each.listen()) for each in heard]
    try:
        yield heard
    finally:
        for uniqueid in [uniqueid for each in heard for uniqueid in each.legs]:
            if uniqueid in await live(pbx):
                await pbx.request("Hangup", Channel=uniqueid, raise_on_failure=False, timeout=TIMEOUT_S)
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*listening)
    for each in heard:
        await each.call.ended(TIMEOUT_S)
        _keeps_to_itself(each)


def _keeps_to_itself(heard: Heard) -> None:
    """Every leg of the call has its Newchannel and its Hangup, and none has another's."""
    assert {event.headers["Uniqueid"] for event in heard.named("Newchannel")} == heard.legs
    hung_up = [event.headers["Uniqueid"] for event in heard.named("Hangup")]
    assert sorted(hung_up) == sorted(heard.legs)
    assert heard.events[-1].name in ("Hangup", "OriginateResponse"), heard.events[-1]
    assert not any(leg.is_alive or leg.bridge_id for leg in heard.call.legs)
    assert all(heard.call.action_id in event.action_ids for event in heard.events)
    assert [event.seq for event in heard.events] == sorted({event.seq for event in heard.events})


async def _talk(heard: Heard) -> None:
    bridge = await heard.call.bridged(TIMEOUT_S)
    assert bridge is not None
    assert set(bridge.legs) <= heard.legs


def _dialled(heard: Heard) -> str:
    """The leg that the far leg of the call dialled."""
    return next(leg.uniqueid for leg in heard.call.legs if not leg.uniqueid.startswith(heard.call.channel_id))


async def test_two_calls_are_bridged_with_each_other(pbx: Server) -> None:
    async with two_calls(pbx, ANSWERING) as (one, other):
        assert all([(await each.call.answered(TIMEOUT_S)).is_answered for each in (one, other)])
        await pbx.bridge(one.call.channel_id, other.call.channel_id, timeout=TIMEOUT_S)
        # whichever of them came into the bridge first hears of the other
        first, second = await one.call.bridged(TIMEOUT_S), await other.call.bridged(TIMEOUT_S)
        assert first is not None
        assert second is not None
        assert first.bridge_id == second.bridge_id
        assert (first.channels, second.channels) == (2, 2)
        assert (first.legs, second.legs) == ((one.call.channel_id,), (other.call.channel_id,))
    assert not one.legs & other.legs


async def test_the_parties_of_two_calls_are_exchanged(pbx: Server) -> None:
    async with two_calls(pbx, "Local/110@default") as (one, other):
        await asyncio.gather(_talk(one), _talk(other))
        ours, theirs = _dialled(one), _dialled(other)
        assert {ours, theirs}.isdisjoint(one.legs & other.legs)
        await pbx.bridge(ours, theirs, timeout=TIMEOUT_S)

        async def together() -> str:
            channels = await live(pbx)
            bridge_id = channels[ours].bridge_id if ours in channels else ""
            return bridge_id if theirs in channels and channels[theirs].bridge_id == bridge_id else ""

        await eventually(together, "the two that were dialled talk to each other")
        # who dialled them goes on in its dialplan, which ends, and so does the first leg
        for each in (one, other):
            await until_gone(pbx, each.call.channel_id)
        assert {leg.uniqueid for leg in one.call.legs if leg.is_alive} >= {ours}
    assert not one.legs & other.legs


async def test_blind_transfers(pbx: Server) -> None:
    async with two_calls(pbx, "Local/112@default") as (one, other):
        await asyncio.gather(_talk(one), _talk(other))
        await asyncio.gather(
            pbx.transfer(f"{one.call.channel_id};2", "200", timeout=TIMEOUT_S),
            pbx.transfer(f"{other.call.channel_id};2", "201", timeout=TIMEOUT_S),
        )
        await until_in(pbx, _dialled(one), "MusicOnHold")
        await until_in(pbx, _dialled(other), "Echo")
        for each in (one, other):
            await until_gone(pbx, each.call.channel_id)
            # what was dialled lives on, though who dialled it has gone
            assert _dialled(each) in {leg.uniqueid for leg in each.call.legs if leg.is_alive}
    for each in (one, other):
        [transfer] = each.named("BlindTransfer")
        assert transfer.headers["TransfererUniqueid"] == f"{each.call.channel_id};2"
        assert transfer.headers["TransfereeUniqueid"] == _dialled(each)


async def test_both_are_redirected_into_a_conference(pbx: Server) -> None:
    async with two_calls(pbx, ANSWERING) as (one, other):
        assert all([(await each.call.answered(TIMEOUT_S)).is_answered for each in (one, other)])
        await pbx.redirect(one.call.channel_id, "605", other=other.call.channel_id, timeout=TIMEOUT_S)
        for each in (one, other):
            await until_in(pbx, each.call.channel_id, "ConfBridge", "605")
        bridges = [await each.call.bridged(TIMEOUT_S) for each in (one, other)]
        assert bridges[0] is not None
        assert bridges[1] is not None
        assert bridges[0].bridge_id == bridges[1].bridge_id
    assert not one.legs & other.legs


async def test_attended_transfers(pbx: Server) -> None:
    async with two_calls(pbx, "Local/112@default") as (one, other):
        await asyncio.gather(_talk(one), _talk(other))

        async def transfer(heard: Heard) -> str:
            """The second call that the transferer makes, to extension 5; then it leaves the two alone."""
            transferer = f"{heard.call.channel_id};2"
            where = {"Channel": transferer, "Exten": "5", "Context": "default"}
            await pbx.request("Atxfer", headers=where, timeout=TIMEOUT_S)

            async def consulted() -> str:
                found = [leg for leg in heard.call.legs if leg.channel.startswith("Local/5@default") and leg.bridge_id]
                return found[0].uniqueid if len({*_bridges(heard)}) == 2 and found else ""

            try:
                target = await eventually(consulted, "the transferer talks to the second one", deadline_s=5)
            except AssertionError:  # Asterisk, which waits for digits, did not hear the one that Atxfer played
                await pbx.request("PlayDTMF", Channel=heard.call.channel_id, Digit="5", timeout=TIMEOUT_S)
                target = await eventually(consulted, "the transferer talks to the second one")
            await pbx.hangup(transferer, timeout=TIMEOUT_S)
            return target

        targets = await asyncio.gather(transfer(one), transfer(other))
        for heard, target in zip((one, other), targets, strict=True):

            async def joined(heard: Heard = heard, target: str = target) -> bool:
                channels: dict[str, Channel] = await live(pbx)
                dialled = _dialled(heard)
                if target not in channels or dialled not in channels:
                    return False
                return bool(channels[target].bridge_id) and channels[target].bridge_id == channels[dialled].bridge_id

            await eventually(joined, "the two talk to each other")
            await until_gone(pbx, heard.call.channel_id)
    for heard, target in zip((one, other), targets, strict=True):
        [transferred] = heard.named("AttendedTransfer")
        assert transferred.headers["OrigTransfererUniqueid"] == f"{heard.call.channel_id};2"
        assert transferred.headers["TransfereeUniqueid"] == _dialled(heard)
        assert target in heard.legs
    assert not one.legs & other.legs


def _bridges(heard: Heard) -> list[str]:
    """The bridges that legs of the call have entered."""
    return [event.headers["BridgeUniqueid"] for event in heard.named("BridgeEnter")]


async def test_local_channels_make_way(pbx: Server) -> None:
    async with two_calls(pbx, "Local/113@default") as (one, other):

        async def optimised(heard: Heard) -> bool:
            return bool(heard.named("LocalOptimizationEnd"))

        async def two_are_together(heard: Heard) -> bool:
            found = [leg.bridge_id for leg in heard.call.legs if leg.bridge_id]
            return len(found) == 2 and len(set(found)) == 1

        for heard in (one, other):
            await eventually(lambda heard=heard: optimised(heard), "a Local channel made way")  # type: ignore[misc]
            [event] = heard.named("LocalOptimizationEnd")
            gone = {event.headers["LocalOneUniqueid"], event.headers["LocalTwoUniqueid"]}
            for uniqueid in gone:
                await until_gone(pbx, uniqueid)
            assert gone < heard.legs
            # those behind it are in one bridge now, each of its own call
            alive = {leg.uniqueid for leg in heard.call.legs} & set(await live(pbx))
            assert len(alive) == 4
            await eventually(lambda heard=heard: two_are_together(heard), "two are in one bridge")  # type: ignore[misc]
    assert not one.legs & other.legs
    assert len(one.legs) == len(other.legs) == 6


async def test_a_call_picks_another_up(pbx: Server) -> None:
    """The channel that picks up takes, by a masquerade, the place of the one that rings."""
    async with two_calls(pbx, "Local/114@default", "Local/101@default") as (one, other):

        async def rings() -> bool:
            return any(leg.state == "Ringing" and "@ring" in leg.channel for leg in one.call.legs)

        await eventually(rings, "what the first call dials rings")
        ringing = next(leg for leg in one.call.legs if leg.state == "Ringing" and "@ring" in leg.channel)
        assert (await other.call.answered(TIMEOUT_S)).is_answered
        await other.call.redirect("115", timeout=TIMEOUT_S)
        assert (await one.call.answered(TIMEOUT_S)).is_answered
        await until_gone(pbx, ringing.uniqueid)
        first, second = await one.call.bridged(TIMEOUT_S), await other.call.bridged(TIMEOUT_S)
        assert first is not None
        assert second is not None
        assert first.bridge_id == second.bridge_id
        assert first.legs == (f"{one.call.channel_id};2",)
        assert second.legs == (other.call.channel_id,)
        # the Linkedid of one has gone over to the other, its legs have not
        channels = await live(pbx)
        assert channels[other.call.channel_id].linkedid == one.call.channel_id
    [picked_up] = other.named("Pickup")
    assert picked_up.headers["TargetUniqueid"] == ringing.uniqueid
    assert [event.headers["TargetUniqueid"] for event in one.named("Pickup")] == [ringing.uniqueid]
    assert not one.legs & other.legs
