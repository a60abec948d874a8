"""Calls are parked and fetched back."""

import pytest

from broker import ActionFailed, ParkedCall, Server
from tests.live.harness import Site, eventually
from tests.live.telephony.calls import TIMEOUT_S, calling, live, talking, until_gone, until_in


async def test_dumped_to_music_and_fetched_back_by_another_channel(pbx: Server) -> None:
    async with talking(pbx) as pair, calling(pbx) as agent:
        held = await pbx.hold_at(pair.called.name, "200", timeout=TIMEOUT_S)
        assert held == pair.called.uniqueid
        await until_in(pbx, held, "MusicOnHold")
        await until_gone(pbx, pair.caller.uniqueid)
        await pbx.retrieve(held, by=agent.channel_id, timeout=TIMEOUT_S)

        async def together() -> bool:
            channels = await live(pbx)
            bridge_id = channels[held].bridge_id
            return bool(bridge_id) and channels[agent.channel_id].bridge_id == bridge_id

        await eventually(together, "they talk")


async def test_dumped_to_music_and_fetched_back_to_an_extension(pbx: Server) -> None:
    async with calling(pbx) as call:
        held = await pbx.hold_at(call.channel_id, "200", timeout=TIMEOUT_S)
        await until_in(pbx, held, "MusicOnHold")
        await pbx.retrieve(held, exten="201", timeout=TIMEOUT_S)
        await until_in(pbx, held, "Echo")


async def test_parked_and_fetched_back_by_its_space(pbx: Server) -> None:
    async with calling(pbx) as call:
        parked = await pbx.park(call.channel_id, stay_s=30, timeout=TIMEOUT_S)
        assert (parked.lot, parked.uniqueid) == ("default", call.channel_id)
        assert 701 <= int(parked.space) <= 720
        assert parked.timeout_s is not None
        assert 0 < parked.timeout_s <= 30
        [listed] = await _parked(pbx, call.channel_id)
        assert (listed.space, listed.channel) == (parked.space, parked.channel)
        agent = await pbx.originate("Local/101@default", parked.space, timeout=TIMEOUT_S)
        await agent.result(timeout=TIMEOUT_S)

        async def together() -> bool:
            channels = await live(pbx)
            bridge_id = channels[call.channel_id].bridge_id
            return bool(bridge_id) and channels[agent.channel_id].bridge_id == bridge_id

        await eventually(together, "they talk")
        assert await _parked(pbx, call.channel_id) == []
        await agent.hangup(timeout=TIMEOUT_S)


@pytest.mark.parametrize("which", ["caller", "called"])
async def test_one_of_two_who_talk_is_parked(pbx: Server, which: str) -> None:
    async with talking(pbx) as pair:
        channel = pair.caller if which == "caller" else pair.called
        parked = await pbx.park(channel.name, timeout=TIMEOUT_S)
        assert (parked.uniqueid, parked.channel) == (channel.uniqueid, channel.name)
        await pbx.retrieve(channel.uniqueid, exten="201", timeout=TIMEOUT_S)
        await until_in(pbx, channel.uniqueid, "Echo")


async def test_parked_in_a_space_of_ones_choice(pbx: Server, site: Site) -> None:
    async with calling(pbx) as call:
        parked = await pbx.park(call.channel_id, "default", space="715", timeout=TIMEOUT_S)
        # Asterisk 16 knows no ParkingSpace
        assert parked.space == ("701" if site.asterisk.series == "16" else "715")
        await pbx.retrieve(call.channel_id, exten="201", timeout=TIMEOUT_S)
        await until_in(pbx, call.channel_id, "Echo")
        assert await _parked(pbx, call.channel_id) == []


async def test_it_may_not_stay_for_longer(pbx: Server) -> None:
    async with calling(pbx) as call:
        await pbx.park(call.channel_id, stay_s=1, timeout=TIMEOUT_S)

        async def is_away() -> bool:
            return await _parked(pbx, call.channel_id) == []

        await eventually(is_away, "it has left the lot")


async def test_nobody_is_parked(pbx: Server) -> None:
    async with calling(pbx) as call:
        assert await _parked(pbx, call.channel_id) == []


async def test_a_lot_that_there_is_not(pbx: Server) -> None:
    async with calling(pbx) as call:
        with pytest.raises(ActionFailed, match="Park action failed"):
            await pbx.park(call.channel_id, "nowhere", timeout=TIMEOUT_S)
    with pytest.raises(ActionFailed, match="parking lot could not be found"):
        await pbx.parked_calls("nowhere", timeout=TIMEOUT_S)


async def _parked(pbx: Server, uniqueid: str) -> list[ParkedCall]:
    return [each for each in await pbx.parked_calls(timeout=TIMEOUT_S) if each.uniqueid == uniqueid]
