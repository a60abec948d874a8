"""Live channels: what they are, and that they are really hung up."""

import pytest

from broker import ActionFailed, Refused, Server
from tests.live.harness import Site
from tests.live.observer import observing
from tests.live.telephony.calls import TIMEOUT_S, calling, live, talking, until_gone, until_in


async def test_channels_are_those_of_the_cli(pbx: Server, site: Site) -> None:
    async with talking(pbx) as pair:
        channel = await until_in(pbx, pair.call.channel_id, "Wait", "300")
        shown = await site.asterisk.cli("core show channels concise")
        mine = [line.split("!") for line in shown.splitlines() if line.endswith(f"!{channel.uniqueid}")]
        [[name, context, exten, priority, state, application, data, *_]] = mine
        assert (channel.name, channel.context, channel.exten) == (name, context, exten)
        assert (str(channel.priority), channel.state, channel.application, channel.data) == (
            priority, state, application, data,
        )  # fmt: skip
        assert channel.duration_s is not None
        assert channel.duration_s < 30
        assert pair.caller.bridge_id == pair.called.bridge_id != ""
        assert pair.caller.bridge_id in await site.asterisk.cli("bridge show all")


@pytest.mark.parametrize("by", ["name", "uniqueid"])
async def test_hung_up_with_a_cause(pbx: Server, site: Site, by: str) -> None:
    async with calling(pbx) as call, observing(site.asterisk) as observer:
        channel = (await live(pbx))[call.channel_id]
        await pbx.hangup(channel.name if by == "name" else channel.uniqueid, 17, urgent=True, timeout=TIMEOUT_S)
        hangup = await observer.until("Hangup", Uniqueid=call.channel_id)
        assert hangup["Cause"] == "17"
        await until_gone(pbx, call.channel_id)


async def test_a_channel_that_there_is_not(pbx: Server) -> None:
    with pytest.raises(ActionFailed, match="No such channel"):
        await pbx.hangup("Local/nobody@default-00000000;1", timeout=TIMEOUT_S)


async def test_all_channels_at_once_cannot_be_hung_up(pbx: Server) -> None:
    async with calling(pbx) as call:
        with pytest.raises(Refused, match="regular expression"):
            await pbx.hangup("/.*/", timeout=TIMEOUT_S)
        assert call.channel_id in await live(pbx)


async def test_a_global_variable(pbx: Server) -> None:
    await pbx.setvar("TYPED", "a, (b", timeout=TIMEOUT_S)
    assert await pbx.getvar("TYPED", timeout=TIMEOUT_S) == "a, (b"
    assert await pbx.getvar("NEVER_SET", timeout=TIMEOUT_S) == ""
