"""Conferences: single members are thrown out, muted, hung up; the door is locked; all of it is recorded."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker import ActionFailed, Call, Conference, ConferenceMember, ConferenceRoom, Server
from tests.live.harness import Site, eventually
from tests.live.telephony.calls import ANSWERING, TIMEOUT_S, TONE, calling, live, until_gone, until_in


async def members(conference: Conference) -> dict[str, ConferenceMember]:
    return {member.uniqueid: member for member in await conference.members(timeout=TIMEOUT_S)}


async def rooms(pbx: Server) -> dict[str, ConferenceRoom]:
    return {room.name: room for room in await pbx.conferences(timeout=TIMEOUT_S)}


@asynccontextmanager
async def meeting(pbx: Server, number: str, channel: str = ANSWERING) -> AsyncIterator[tuple[Conference, Call, Call]]:
    """Two calls in a conference."""
    async with calling(pbx, channel) as one, calling(pbx, channel) as two:
        for call in (one, two):
            await call.redirect(number, timeout=TIMEOUT_S)
            await until_in(pbx, call.channel_id, "ConfBridge", number)
        conference = pbx.conference(number)

        async def both() -> bool:
            return {one.channel_id, two.channel_id} == set(await members(conference))

        await eventually(both, "both are in")
        yield conference, one, two


async def test_who_is_in_it(pbx: Server) -> None:
    async with meeting(pbx, "603") as (conference, one, _):
        member = (await members(conference))[one.channel_id]
        assert member.channel == (await live(pbx))[one.channel_id].name
        assert (member.is_admin, member.is_marked, member.is_waiting, member.is_muted) == (False,) * 4
        room = (await rooms(pbx))["603"]
        assert (room.parties, room.marked, room.is_locked, room.is_muted) == (2, 0, False, False)


async def test_nobody_is_in_one_that_is_not_going_on(pbx: Server) -> None:
    assert await pbx.conference("609").members(timeout=TIMEOUT_S) == []
    assert "609" not in await rooms(pbx)
    async with meeting(pbx, "603"):
        # another answer of Asterisk's than when there is no conference at all
        assert await pbx.conference("609").members(timeout=TIMEOUT_S) == []
    with pytest.raises(ActionFailed, match=r"(?i)conference"):
        await pbx.conference("609").lock(timeout=TIMEOUT_S)


async def test_one_member_is_thrown_out(pbx: Server) -> None:
    async with meeting(pbx, "604") as (conference, one, two):
        await conference.kick((await members(conference))[one.channel_id].channel, timeout=TIMEOUT_S)

        async def only_the_other() -> bool:
            return set(await members(conference)) == {two.channel_id}

        await eventually(only_the_other, "one is out")
        with pytest.raises(ActionFailed):
            await conference.kick("Local/nobody@default-00000000;1", timeout=TIMEOUT_S)


async def test_one_member_is_hung_up(pbx: Server) -> None:
    async with meeting(pbx, "604") as (conference, one, two):
        await pbx.hangup(one.channel_id, timeout=TIMEOUT_S)
        await until_gone(pbx, one.channel_id)
        assert set(await members(conference)) == {two.channel_id}


async def test_everybody_is_thrown_out(pbx: Server) -> None:
    async with meeting(pbx, "605") as (conference, _, _):
        await conference.kick_all(timeout=TIMEOUT_S)

        async def is_over() -> bool:
            return "605" not in await rooms(pbx)

        await eventually(is_over, "the conference is over")


async def test_one_member_is_muted(pbx: Server) -> None:
    async with meeting(pbx, "606") as (conference, one, two):
        name = (await members(conference))[one.channel_id].channel
        await conference.mute(name, timeout=TIMEOUT_S)
        muted = await members(conference)
        assert (muted[one.channel_id].is_muted, muted[two.channel_id].is_muted) == (True, False)
        await conference.unmute(name, timeout=TIMEOUT_S)
        assert not (await members(conference))[one.channel_id].is_muted


async def test_the_door_is_locked(pbx: Server) -> None:
    async with meeting(pbx, "607") as (conference, one, two):
        await conference.lock(timeout=TIMEOUT_S)
        assert (await rooms(pbx))["607"].is_locked
        late = await pbx.originate("Local/101@default", "607", timeout=TIMEOUT_S)
        await late.result(timeout=TIMEOUT_S)
        # it is turned away, and its dialplan hangs it up
        await until_gone(pbx, late.channel_id)
        assert set(await members(conference)) == {one.channel_id, two.channel_id}
        await conference.unlock(timeout=TIMEOUT_S)
        assert not (await rooms(pbx))["607"].is_locked


async def test_it_is_recorded_to_a_file_of_ones_own_name(trusted: Server, site: Site) -> None:
    async with meeting(trusted, "608", TONE) as (conference, _, _):
        await conference.record("conferences/board.wav", timeout=TIMEOUT_S)
        # unless record_file_timestamp = no in confbridge.conf, Asterisk puts the time before the ending
        directory = site.asterisk.spool_dir / "monitor" / "conferences"

        async def grows() -> bool:
            return any(file.stat().st_size > 1000 for file in directory.glob("board-*.wav"))

        await eventually(grows, "the file grows")
        with pytest.raises(ActionFailed, match="already being recorded"):
            await conference.record("conferences/again.wav", timeout=TIMEOUT_S)
        await conference.stop_recording(timeout=TIMEOUT_S)
        with pytest.raises(ActionFailed):
            await conference.stop_recording(timeout=TIMEOUT_S)


async def test_without_the_class_system_the_error_says_so(pbx: Server) -> None:
    async with meeting(pbx, "608") as (conference, _, _):
        with pytest.raises(ActionFailed, match="it needs class system"):
            await conference.record("x.wav", timeout=TIMEOUT_S)
