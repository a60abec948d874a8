"""What the CLI shows, by the bus and by itself."""

import pytest

from broker import ActionFailed, ActionRejected, Server
from tests.live.harness import Site
from tests.live.telephony.calls import TIMEOUT_S, calling


async def test_the_lines_are_those_of_the_cli(pbx: Server, site: Site) -> None:
    shown = await site.asterisk.cli("core show channeltypes")
    assert await pbx.command("core show channeltypes", timeout=TIMEOUT_S) == shown.rstrip("\n").splitlines()


async def test_show_channels(pbx: Server) -> None:
    async with calling(pbx) as call:
        lines = await pbx.command("core show channels concise", timeout=TIMEOUT_S)
        assert any(line.endswith(f"!{call.channel_id}") for line in lines)


async def test_a_command_that_there_is_not(pbx: Server) -> None:
    with pytest.raises(ActionFailed, match="No such command 'nonsense show x'") as failed:
        await pbx.command("nonsense show x", timeout=TIMEOUT_S)
    assert failed.value.result.output


async def test_a_command_that_changes_something_is_refused(pbx: Server) -> None:
    with pytest.raises(ActionRejected, match="allow=Command") as refused:
        await pbx.command("core restart now", timeout=TIMEOUT_S)
    assert refused.value.code == "forbidden"
