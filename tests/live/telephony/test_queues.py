"""Queues: what they are, who waits, and who serves them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker import ActionFailed, Queue, QueueMember, Server
from tests.live.harness import Site, eventually
from tests.live.producer import new_id
from tests.live.telephony.calls import TIMEOUT_S, calling, live


async def queue(pbx: Server, name: str) -> Queue:
    [found] = await pbx.queues(name, timeout=TIMEOUT_S)
    return found


async def member(pbx: Server, interface: str) -> QueueMember | None:
    members = (await queue(pbx, "sales")).members
    return next((each for each in members if each.interface == interface), None)


@asynccontextmanager
async def serving(pbx: Server, *, paused: bool = False) -> AsyncIterator[str]:
    """An interface that serves queue `sales`."""
    interface = f"Local/{new_id('agent')}@nowhere"
    await pbx.add_queue_member("sales", interface, name="Ann Agent", penalty=3, paused=paused, timeout=TIMEOUT_S)
    try:
        yield interface
    finally:
        if await member(pbx, interface) is not None:
            await pbx.remove_queue_member("sales", interface, timeout=TIMEOUT_S)


async def test_parameters_and_members(pbx: Server) -> None:
    found = {each.name: each for each in await pbx.queues(timeout=TIMEOUT_S)}
    assert set(found) == {"support", "sales"}
    support = found["support"]
    assert (support.strategy, support.max_callers, support.weight, support.calls) == ("ringall", 0, 0, 0)
    assert (support.service_level_percent, found["sales"].strategy) == (0.0, "leastrecent")
    [agent] = support.members
    assert (agent.queue, agent.name, agent.interface) == ("support", "Lab Agent", "Local/101@default/n")
    assert (agent.state_interface, agent.membership, agent.state) == ("Custom:agent", "static", "UNKNOWN")
    assert (agent.penalty, agent.is_paused, agent.last_call_at) == (0, False, None)


async def test_a_caller_waits(pbx: Server) -> None:
    async with calling(pbx) as first, calling(pbx) as second:
        for number, call in enumerate((first, second), 1):
            await call.redirect("301", timeout=TIMEOUT_S)

            async def so_many_wait(number: int = number) -> bool:
                return (await queue(pbx, "sales")).calls == number

            await eventually(so_many_wait, f"{number} wait")
        found = await queue(pbx, "sales")
        assert [(each.position, each.uniqueid) for each in found.callers] == [
            (1, first.channel_id), (2, second.channel_id),
        ]  # fmt: skip
        assert found.callers[0].channel == (await live(pbx))[first.channel_id].name
        assert 0 <= found.callers[0].wait_s < 30

    async def nobody_waits() -> bool:
        return (await queue(pbx, "sales")).callers == ()

    await eventually(nobody_waits, "both have left")


async def test_a_member_is_added_and_removed(pbx: Server, site: Site) -> None:
    async with serving(pbx) as interface:
        found = await member(pbx, interface)
        assert found is not None
        assert (found.name, found.penalty, found.membership, found.is_paused) == ("Ann Agent", 3, "dynamic", False)
        assert "Ann Agent" in await site.asterisk.cli("queue show sales")
        with pytest.raises(ActionFailed, match="Already there"):
            await pbx.add_queue_member("sales", interface, timeout=TIMEOUT_S)
        await pbx.remove_queue_member("sales", interface, timeout=TIMEOUT_S)
        assert await member(pbx, interface) is None
        assert "Ann Agent" not in await site.asterisk.cli("queue show sales")
        with pytest.raises(ActionFailed, match="Not there"):
            await pbx.remove_queue_member("sales", interface, timeout=TIMEOUT_S)


async def test_a_member_is_paused(pbx: Server) -> None:
    async with serving(pbx) as interface:
        await pbx.pause_queue_member(interface, "sales", reason="lunch", timeout=TIMEOUT_S)
        found = await member(pbx, interface)
        assert found is not None
        assert (found.is_paused, found.pause_reason) == (True, "lunch")
        await pbx.pause_queue_member(interface, paused=False, timeout=TIMEOUT_S)
        found = await member(pbx, interface)
        assert found is not None
        assert not found.is_paused


async def test_a_member_begins_paused(pbx: Server) -> None:
    async with serving(pbx, paused=True) as interface:
        found = await member(pbx, interface)
        assert found is not None
        assert found.is_paused


async def test_what_there_is_not(pbx: Server) -> None:
    assert await pbx.queues("nowhere", timeout=TIMEOUT_S) == []
    with pytest.raises(ActionFailed, match=r"(?i)queue"):
        await pbx.add_queue_member("nowhere", "Local/1@default", timeout=TIMEOUT_S)
    with pytest.raises(ActionFailed):
        await pbx.pause_queue_member("Local/nobody@nowhere", timeout=TIMEOUT_S)
