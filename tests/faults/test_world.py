"""The world itself: a quiet round passes the checker, and a worker ends where it is told."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from tests.faults import nursery
from tests.faults.history import CLOCKS_S, History, check
from tests.faults.kill_points import Orders
from tests.faults.world import World
from tests.servers import KINDS, need
from tests.workers.worker_process import eventually


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    need(request.param)
    async with World(request.param, 1) as world:
        # On a busy machine a process may well stand still for as long as a shorter one lasts.
        world.settings = {"lease_s": "3"}
        yield world


async def discover(world: World) -> History:
    """A round without any fault, in which all points of a good day are seen."""
    async with world.round(7) as running:
        await running.serving()
        await running.producer.queue(150)
        return await running.finish()


def point(world: World, name: str, moment: str) -> str:
    """The one point of that name (file:function) which was seen."""
    found = [each for each in world.points() if each.startswith(f"{name}:") and each.endswith(f"@{moment}")]
    assert len(found) == 1, found
    return found[0]


async def killed(world: World, at: str, visit: int = 5) -> History:
    """A round whose first worker is killed at a point."""
    async with world.round(8) as running:
        await running.serving()
        running.kill_next(world.orders(point=at, visit=visit))
        await running.producer.queue(100)
        history = await running.finish()
        assert world.ended() == {at: 1}
        return history


async def test_a_quiet_round_passes(world: World) -> None:
    history = await discover(world)
    assert check(history) == []
    assert {"done", "failed", "rejected"} <= set(history.states)
    assert history.unknown_codes == {}
    assert len(history.writes) > 100
    assert any(each.startswith("action_worker.py:mark_sending:") for each in world.points())


@pytest.mark.parametrize("moment", ["suspended", "woken"])
async def test_a_worker_is_killed_where_it_is_told_and_the_next_one_takes_over(world: World, moment: str) -> None:
    await discover(world)
    history = await killed(world, point(world, "connection.py:__anext__", moment))
    assert check(history) == []
    assert len(history.terms) == 3


async def test_a_worker_that_is_stopped_wakes_as_a_zombie_and_does_no_harm(world: World) -> None:
    await discover(world)
    at = point(world, "action_worker.py:mark_sending", "suspended")
    first = world.orders(point=at, visit=5, how="stop")
    async with world.round(9, workers=2, hosts=2, first=first) as running:
        await running.serving()
        await running.producer.queue(50)
        zombie = running.server.present
        await eventually(lambda: zombie.is_stopped)
        await running.serving()
        assert running.server.present is not zombie
        await running.settled()
        zombie.send(signal.SIGCONT)
        await eventually(lambda: any(line["event"].startswith("fenced") for line in zombie.lines()))
        await running.producer.queue(50)
        history = await running.finish()
    assert check(history) == []


@pytest.mark.parametrize("moment", ["called", "returned"])
async def test_a_zombie_does_not_write_what_it_was_about_to(world: World, moment: str) -> None:
    first = world.orders(point=f"diary.py:begin_write@{moment}", how="stop")
    async with world.round(9, workers=2, hosts=2, first=first) as running:
        await running.serving()
        entry = "Action", "Setvar", "ActionID", "zombie", "Variable", "a", "Value", "1"
        await running.command("XADD", world.keys.actions, "*", *entry)
        zombie = running.server.present
        await eventually(lambda: zombie.is_stopped)
        await running.serving()
        await running.settled()
        await asyncio.sleep(3 * CLOCKS_S)  # so that late is late by any clock
        zombie.send(signal.SIGCONT)
        await eventually(lambda: any(line["event"].startswith("fenced") for line in zombie.lines()))
        history = await running.finish()
    assert "written late" not in {violation.rule for violation in check(history)}


async def test_what_a_zombie_reads_is_not_stranded(world: World) -> None:
    async with world.round(10, workers=2, hosts=2) as running:
        await running.serving()
        zombie = running.server.present
        zombie.send(signal.SIGSTOP)
        await eventually(lambda: zombie.is_stopped)
        await running.serving()
        holder = running.server.present
        holder.send(signal.SIGSTOP)  # so that it is not first
        await running.producer.queue(5)
        zombie.send(signal.SIGCONT)
        await eventually(lambda: any(line["event"].startswith("fenced") for line in zombie.lines()))
        holder.send(signal.SIGCONT)
        history = await running.finish()
    assert check(history) == []


async def test_a_worker_that_does_not_end_is_told_and_no_round_after_it_finds_any(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "DEADLINE_S", 10.0)
    async with world.round(11, workers=2, hosts=2) as running:
        await running.serving()
        running.server.present.send(signal.SIGSTOP)
    assert [slot.present.is_over for slot in world.slots] == [True, True]
    assert [" was asked to end, and did not: " in words for words in world.crashes] == [True]
    assert check(await discover(world)) == []


async def test_a_round_that_fails_leaves_no_worker_and_says_what_they_said(world: World) -> None:
    async def fail() -> None:
        async with world.round(12, workers=2, hosts=2) as running:
            await running.serving()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failed:
        await fail()
    assert [slot.present.is_over for slot in world.slots] == [True, True]
    assert not world.is_clean
    assert [note.partition(" said last")[0] for note in failed.value.__notes__] == ["w0", "w1"]
    assert "lease taken" in failed.value.__notes__[0]


def test_orders_are_read_as_they_are_given() -> None:
    assert Orders.parse("lease.py:renew:88@woken:3") == Orders("lease.py:renew:88@woken", 3)
