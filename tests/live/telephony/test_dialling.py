"""Originate by the typed call: from any channel to any extension or application."""

import pytest

from broker import ActionFailed, ActionRejected, Server
from tests.live.harness import Site, eventually
from tests.live.producer import new_id
from tests.live.telephony.calls import ANSWERING, TIMEOUT_S, calling, end, live, until_in

NASTY: dict[str, str | int] = {
    "COMMAS": "a,b,c",
    "QUOTES": 'she said "hi, you"',
    "BACKSLASHES": "C:\\new\\,x",
    "OPEN": "(never [closed",
    "CLOSED": ")]},",
    "EQUALS": "a=b=c",
    "DOLLAR": "${EXTEN} $[1+1]",
    "BLANKS": " in front, and behind ",
    "EMPTY": "",
    "UMLAUTS": "Grüße; „Welt“",
    "NUMBER": 5,
}


async def test_to_an_extension(pbx: Server) -> None:
    call = await pbx.originate(ANSWERING, "200", "default", 1, account="sales", timeout=TIMEOUT_S)
    assert (await call.result(timeout=TIMEOUT_S)).is_done
    channel = await until_in(pbx, call.channel_id, "MusicOnHold")
    assert (channel.context, channel.exten, channel.state, channel.account) == ("default", "200", "Up", "sales")
    await end(pbx, call)


async def test_to_an_application_with_variables_and_a_caller(pbx: Server) -> None:
    call = await pbx.originate(
        ANSWERING,
        application="Wait",
        data="300",
        caller_number="4711",
        caller_name='Jürgen "the <x>" \\ Groß, Sr.',
        variables={**NASTY, "__INHERITED": "1,2", "CHANNEL(musicclass)": "default"},
        timeout=TIMEOUT_S,
    )
    await call.result(timeout=TIMEOUT_S)
    channel = await until_in(pbx, call.channel_id, "Wait", "300")
    assert (channel.caller_number, channel.caller_name) == ("4711", 'Jürgen "the <x>" \\ Groß, Sr.')
    assert {name: await call.getvar(name, timeout=TIMEOUT_S) for name in NASTY} == {
        name: str(value) for name, value in NASTY.items()
    }
    other_leg = f"{call.channel_id};2"
    assert await pbx.getvar("INHERITED", other_leg, timeout=TIMEOUT_S) == "1,2"
    await end(pbx, call)


@pytest.mark.parametrize(("number", "name"), [("4711", None), (None, "Ann"), ("+49 30/1", "")])
async def test_a_caller_of_whom_less_is_known(pbx: Server, number: str | None, name: str | None) -> None:
    call = await pbx.originate(
        ANSWERING, application="Wait", data="300", caller_number=number, caller_name=name, timeout=TIMEOUT_S
    )
    await call.result(timeout=TIMEOUT_S)
    channel = (await live(pbx))[call.channel_id]
    assert (channel.caller_number, channel.caller_name) == ((number or "").replace(" ", ""), name or "")
    await end(pbx, call)


async def test_it_rings_for_so_long(pbx: Server) -> None:
    call = await pbx.originate("Local/30@ring", application="Wait", data="1", ring_s=0.8, timeout=TIMEOUT_S)
    with pytest.raises(ActionFailed, match="no answer") as failed:
        await call.result(timeout=TIMEOUT_S)
    assert failed.value.code == "originate-failed"


async def test_early_media_counts_as_an_answer(pbx: Server) -> None:
    for early_media in (True, False):
        call = await pbx.originate(
            "Local/progress@default",
            "200",
            early_media=early_media,
            ring_s=20 if early_media else 1,
            timeout=TIMEOUT_S,
        )
        result = await call.result(timeout=TIMEOUT_S, raise_on_failure=False)
        assert result.is_done is early_media
        if early_media:
            channel = await until_in(pbx, call.channel_id, "MusicOnHold")
            assert channel.state == "Up"
        await end(pbx, call)


async def test_codecs(pbx: Server, site: Site) -> None:
    call = await pbx.originate(ANSWERING, application="Wait", data="300", codecs=["alaw", "g722"], timeout=TIMEOUT_S)
    await call.result(timeout=TIMEOUT_S)
    shown = await site.asterisk.cli(f"core show channel {(await live(pbx))[call.channel_id].name}")
    [formats] = [line.split(":")[1] for line in shown.splitlines() if "NativeFormats" in line]
    assert formats.strip() in ("(alaw|g722)", "(g722|alaw)", "(alaw)", "(g722)")
    await end(pbx, call)


async def test_channel_ids_of_ones_own(pbx: Server) -> None:
    one, two = new_id("one"), new_id("two")
    call = await pbx.originate(
        ANSWERING, application="Wait", data="300", channel_id=one, other_channel_id=two, timeout=TIMEOUT_S
    )
    await call.result(timeout=TIMEOUT_S)
    assert call.channel_id == one
    assert {one, two} <= set(await live(pbx))
    await call.hangup(timeout=TIMEOUT_S)


async def test_a_busy_one(pbx: Server) -> None:
    call = await pbx.originate("Local/busy@default", application="Wait", data="1", timeout=TIMEOUT_S)
    with pytest.raises(ActionFailed, match="busy"):
        await call.result(timeout=TIMEOUT_S)


async def test_an_extension_that_there_is_not(pbx: Server) -> None:
    call = await pbx.originate(ANSWERING, "nobody", timeout=TIMEOUT_S)
    with pytest.raises(ActionFailed, match="Extension does not exist"):
        await call.result(timeout=TIMEOUT_S)


async def test_an_application_that_runs_code_is_refused(pbx: Server) -> None:
    call = await pbx.originate(ANSWERING, application="System", data="true", timeout=TIMEOUT_S)
    with pytest.raises(ActionRejected, match="allow=Originate:System"):
        await call.result(timeout=TIMEOUT_S)


async def test_what_is_done_to_a_call_of_ones_own(pbx: Server) -> None:
    async with calling(pbx) as call:
        await call.setvar("COLOUR", "green, not red", timeout=TIMEOUT_S)
        assert await call.getvar("COLOUR", timeout=TIMEOUT_S) == "green, not red"
        await call.redirect("200", timeout=TIMEOUT_S)
        await until_in(pbx, call.channel_id, "MusicOnHold")
        parked = await call.park(timeout=TIMEOUT_S)
        assert parked.uniqueid == call.channel_id
        await call.retrieve(exten="201", timeout=TIMEOUT_S)
        await until_in(pbx, call.channel_id, "Echo")
        assert await call.hold_at("200", timeout=TIMEOUT_S) == call.channel_id
        await until_in(pbx, call.channel_id, "MusicOnHold")
        await call.hangup(21, timeout=TIMEOUT_S)

        async def cause() -> str:
            record = await call.action_record()
            return "" if record is None else record.get("cause")

        assert await eventually(cause, "it has hung up") == "21"
