"""Live channels are sent elsewhere: the channel has really moved."""

import pytest

from broker import ActionFailed, Channel, Server
from tests.live.harness import eventually
from tests.live.telephony.calls import TIMEOUT_S, calling, live, talking, until_gone, until_in


async def test_one_leg(pbx: Server) -> None:
    async with calling(pbx) as call:
        await pbx.redirect(call.channel_id, "200", timeout=TIMEOUT_S)
        channel = await until_in(pbx, call.channel_id, "MusicOnHold")
        assert (channel.context, channel.exten) == ("default", "200")


async def test_the_one_that_is_left_alone_goes_on_in_its_dialplan(pbx: Server) -> None:
    async with talking(pbx) as pair:
        # extension 110 ends with Hangup when the one that it dialled has gone
        await pbx.redirect(pair.called.uniqueid, "200", timeout=TIMEOUT_S)
        await until_in(pbx, pair.called.uniqueid, "MusicOnHold")
        await until_gone(pbx, pair.caller.uniqueid)


async def test_both_legs_to_one_place(pbx: Server) -> None:
    async with talking(pbx) as pair:
        await pbx.redirect(pair.caller.uniqueid, "601", other=pair.called.uniqueid, timeout=TIMEOUT_S)
        for uniqueid in (pair.caller.uniqueid, pair.called.uniqueid):
            await until_in(pbx, uniqueid, "ConfBridge")
        await until_members(pbx, "601", pair.caller.uniqueid, pair.called.uniqueid)


async def test_both_legs_each_to_its_own(pbx: Server) -> None:
    async with talking(pbx) as pair:
        await pbx.redirect(
            pair.caller.uniqueid, "200", other=pair.called.uniqueid, other_exten="201", timeout=TIMEOUT_S
        )
        await until_in(pbx, pair.caller.uniqueid, "MusicOnHold")
        await until_in(pbx, pair.called.uniqueid, "Echo")


async def test_into_a_conference(pbx: Server) -> None:
    async with calling(pbx) as call:
        await call.redirect("602", timeout=TIMEOUT_S)
        await until_in(pbx, call.channel_id, "ConfBridge", "602")
        await until_members(pbx, "602", call.channel_id)


async def until_members(pbx: Server, conference: str, *uniqueids: str) -> None:
    """Wait until these are in the conference, and nobody else: a channel runs ConfBridge a moment before it is in."""

    async def look() -> bool:
        members = await pbx.conference(conference).members(timeout=TIMEOUT_S)
        return sorted(member.uniqueid for member in members) == sorted(uniqueids)

    await eventually(look, f"{uniqueids} are in {conference}")


async def test_to_an_outside_line(pbx: Server) -> None:
    async with calling(pbx) as call:
        await call.redirect("9123", timeout=TIMEOUT_S)
        dialling = await until_in(pbx, call.channel_id, "Dial")
        assert dialling.exten == "9123"

        async def outside() -> list[Channel]:
            channels = (await live(pbx)).values()
            return [each for each in channels if (each.context, each.exten, each.state) == ("outside", "123", "Up")]

        # what came in at the other end of the trunk has answered, and they are connected
        [answering] = await eventually(outside, "the outside line answers")
        assert answering.name.partition("/")[0] == "IAX2"
        await eventually(lambda: _bridge_of(pbx, call.channel_id), "they are connected")


async def _bridge_of(pbx: Server, uniqueid: str) -> str:
    return (await live(pbx))[uniqueid].bridge_id


async def test_a_blind_transfer(pbx: Server) -> None:
    async with talking(pbx) as pair:
        await pbx.transfer(pair.caller.uniqueid, "200", timeout=TIMEOUT_S)
        await until_in(pbx, pair.called.uniqueid, "MusicOnHold")
        await until_gone(pbx, pair.caller.uniqueid)


async def test_two_channels_are_bridged(pbx: Server) -> None:
    async with calling(pbx) as one, calling(pbx) as two:
        await pbx.bridge(one.channel_id, two.channel_id, timeout=TIMEOUT_S)

        async def together() -> bool:
            channels = await live(pbx)
            bridge_id = channels[one.channel_id].bridge_id
            return bool(bridge_id) and channels[two.channel_id].bridge_id == bridge_id

        await eventually(together, "they are in one bridge")


async def test_when_the_other_leg_is_not_there_neither_moves(pbx: Server) -> None:
    async with calling(pbx) as call:
        with pytest.raises(ActionFailed, match=r"(?i)channel"):
            await pbx.redirect(call.channel_id, "200", other="Local/nobody@default-00000000;1", timeout=TIMEOUT_S)
        assert (await live(pbx))[call.channel_id].application == "Wait"


async def test_a_channel_that_there_is_not(pbx: Server) -> None:
    with pytest.raises(ActionFailed, match=r"(?i)channel"):
        await pbx.redirect("Local/nobody@default-00000000;1", "200", timeout=TIMEOUT_S)
    async with calling(pbx) as call:
        with pytest.raises(ActionFailed, match=r"(?i)channel"):
            # of a name that is the beginning of another Asterisk would take the other
            await pbx.bridge(call.channel_id[:-1], call.channel_id, timeout=TIMEOUT_S)
