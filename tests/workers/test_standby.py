"""Standing by for another Asterisk than the one that is served, one that cannot be reached, one that refuses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from broker.errors import SettingsError
from tests.ports import free_port
from tests.workers.worker_process import (
    USERS,
    Desk,
    WorkerProcess,
    eventually,
    make_settings,
    running_worker,
    soon,
)
from workers import standby as module
from workers.config import Settings
from workers.lease import Holder, Lease
from workers.service import serve
from workers.simulated import SimulatedAsterisk
from workers.standby import Standby

ENTITY = "02:00:00:00:00:01"


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        simulated.variables["ENTITYID"] = ENTITY
        yield simulated


@pytest.fixture
async def other() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        simulated.variables["ENTITYID"] = "02:00:00:00:00:02"
        yield simulated


class HeldLease:
    """A lease that its holder keeps, looked at without end."""

    def __init__(self, entity_of_holder: str = "", own_entity: str = "") -> None:
        self.entity = own_entity
        self.looks = 0
        self.is_left = True
        """What the standby said at the last look: others are to take over first."""
        self._holder = {"worker": "first", "asterisk": "127.0.0.1:5038", "host": "h", "entity": entity_of_holder}

    async def acquire(self, on_look: Callable[[Holder], bool]) -> None:
        while True:
            self.is_left = on_look(self._holder)
            self.looks += 1
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def standing_by(settings: Settings, lease: HeldLease) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(Standby(settings).take_over(cast(Lease, lease)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def holder_is_known(desk: Desk) -> bool:
    return ENTITY.encode() in (await desk.redis.get(desk.keys.lease) or b"")


def lines(logs: list[Any], event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


def refused(asterisk: SimulatedAsterisk) -> list[float]:
    """When logins were refused."""
    return [login.at for login in asterisk.logins if not login.accepted]


# -- another Asterisk


async def test_it_refuses_to_start(redis_url: str, asterisk: SimulatedAsterisk, other: SimulatedAsterisk) -> None:
    async with running_worker(make_settings(redis_url, asterisk, name="first", lease_s=20.0)), Desk(redis_url) as desk:
        await eventually(lambda: holder_is_known(desk))
        with pytest.raises(SettingsError) as caught:
            await soon(serve(make_settings(redis_url, other, name="second", lease_s=20.0), asyncio.Event()))
    for part in ("first", ENTITY, "02:00:00:00:00:02", "AMIBUS_SERVER"):
        assert part in str(caught.value)


async def test_the_same_asterisk_by_another_name_is_no_reason(asterisk: SimulatedAsterisk) -> None:
    by_name = asterisk.address.replace("127.0.0.1", "localhost")
    lease = HeldLease(ENTITY)
    async with standing_by(make_settings("redis://unused", asterisk, ami=by_name), lease):
        await eventually(lambda: not lease.is_left)


@pytest.mark.parametrize("theirs", ["", "02:00:00:00:00:09"])
async def test_what_is_not_known_is_no_reason(asterisk: SimulatedAsterisk, theirs: str) -> None:
    if theirs:
        del asterisk.variables["ENTITYID"]
    lease = HeldLease(theirs)
    async with standing_by(make_settings("redis://unused", asterisk), lease):
        await eventually(lambda: not lease.is_left)


# -- one that cannot be reached


async def test_one_that_cannot_reach_its_asterisk_lets_a_good_one_take_over(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    stopping = asyncio.Event()
    first = asyncio.create_task(serve(make_settings(redis_url, asterisk, name="first", lease_s=20.0), stopping))
    nowhere = make_settings(redis_url, asterisk, name="away", ami=f"127.0.0.1:{free_port()}", lease_s=20.0)
    async with Desk(redis_url) as desk:
        await eventually(lambda: desk.is_served_by("first"))
        with capture_logs() as logs:
            async with running_worker(nowhere, connected=False):
                await eventually(lambda: lines(logs, "asterisk is away: other standbys take over first"))
                stopping.set()
                await soon(first)
                await eventually(lambda: lines(logs, "nobody serves this server: left to other standbys for a while"))
                async with running_worker(make_settings(redis_url, asterisk, name="good")):
                    assert (await desk.heartbeat())["epoch"] == "2"


@pytest.mark.parametrize("how", ["gone", "shutting down", "silent after the login"])
async def test_an_asterisk_that_is_away_is_told_of_once_and_its_return_once(
    asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr("workers.channels.ASK_TIMEOUT_S", 0.5)
    looks = 0
    ask = Standby._ask

    async def counted(self: Standby) -> str:
        nonlocal looks
        looks += 1
        return await ask(self)

    monkeypatch.setattr(Standby, "_ask", counted)
    lease = HeldLease(ENTITY)
    with capture_logs() as logs:
        async with standing_by(make_settings("redis://unused", asterisk), lease):
            await eventually(lambda: not lease.is_left)
            if how == "gone":
                await asterisk.stop()
            elif how == "shutting down":
                asterisk.faults.shutting_down = True
            else:
                asterisk.faults.lose_response("Getvar", times=0)
            await eventually(lambda: lease.is_left)
            since = looks
            await eventually(lambda: looks > since + 3)
            if how == "gone":
                await asterisk.start()
            asterisk.faults.clear()
            await eventually(lambda: not lease.is_left)
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("warning", "asterisk is away: other standbys take over first"),
        ("info", "asterisk is here for this standby again"),
    ]


# -- one that refuses the login


async def test_a_login_refused_at_the_first_look_ends_it_with_the_sentence(
    redis_url: str, asterisk: SimulatedAsterisk
) -> None:
    async with running_worker(make_settings(redis_url, asterisk, name="first", lease_s=20.0)):
        settings = make_settings(redis_url, asterisk, name="second", lease_s=20.0, ami_secret="wrong-s3cr3t")
        async with WorkerProcess(settings) as standby:
            assert await standby.ended() == 78
            sentence = standby.text.strip().splitlines()[-1]
    assert sentence.startswith(f"amibus: Asterisk at {asterisk.address} refused the login of 'amibus'")
    assert "AMIBUS_AMI_SECRET (or AMIBUS_AMI_SECRET_FILE)" in sentence
    assert "s3cr3t" not in standby.text
    assert len(refused(asterisk)) == 1


async def test_a_user_name_that_cannot_be_sent_ends_it(asterisk: SimulatedAsterisk) -> None:
    async with standing_by(make_settings("redis://unused", asterisk, ami_username="x" * 2000), HeldLease()) as task:
        with pytest.raises(SettingsError, match="cannot be sent to Asterisk"):
            await soon(task)


@pytest.mark.parametrize("own_entity", ["", ENTITY])
async def test_a_login_refused_later_is_tried_seldom_and_told_once(
    asterisk: SimulatedAsterisk, monkeypatch: pytest.MonkeyPatch, own_entity: str
) -> None:
    """It was right before: while standing by, or in a time of its own as the holder."""
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "REFUSED_RETRY_S", 0.3)
    lease = HeldLease(ENTITY, own_entity)
    asterisk.faults.refuse_login = bool(own_entity)
    with capture_logs() as logs:
        async with standing_by(make_settings("redis://unused", asterisk), lease):
            if not own_entity:
                await eventually(lambda: not lease.is_left)
                asterisk.faults.refuse_login = True
            await eventually(lambda: len(refused(asterisk)) >= 3)
            assert lease.is_left
            asterisk.faults.refuse_login = False
            await eventually(lambda: not lease.is_left)
    assert all(later - earlier >= 0.29 for earlier, later in pairwise(refused(asterisk)))
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "login refused: other standbys take over first"),
        ("info", "asterisk is here for this standby again"),
    ]
    assert "AMIBUS_AMI_SECRET" in logs[0]["hint"]
