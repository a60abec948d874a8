"""A standby for another Asterisk than the one that is served."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.errors import SettingsError
from tests.workers.worker_process import USERS, Desk, eventually, make_settings, running_worker, soon
from workers.service import serve
from workers.simulated import SimulatedAsterisk
from workers.standby import Standby


@pytest.fixture
async def asterisk() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        simulated.variables["ENTITYID"] = "02:00:00:00:00:01"
        yield simulated


@pytest.fixture
async def other() -> AsyncIterator[SimulatedAsterisk]:
    async with SimulatedAsterisk(users=USERS, seed=3) as simulated:
        simulated.variables["ENTITYID"] = "02:00:00:00:00:02"
        yield simulated


async def holder_is_known(desk: Desk) -> bool:
    return b"02:00:00:00:00:01" in (await desk.redis.get(desk.keys.lease) or b"")


async def test_it_refuses_to_start(redis_url: str, asterisk: SimulatedAsterisk, other: SimulatedAsterisk) -> None:
    async with running_worker(make_settings(redis_url, asterisk, name="first", lease_s=20.0)), Desk(redis_url) as desk:
        await eventually(lambda: holder_is_known(desk))
        with pytest.raises(SettingsError) as caught:
            await soon(serve(make_settings(redis_url, other, name="second"), asyncio.Event()))
    for part in ("first", "02:00:00:00:00:01", "02:00:00:00:00:02", "AMIBUS_SERVER"):
        assert part in str(caught.value)


async def test_the_same_asterisk_by_another_name_is_no_reason(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    by_name = asterisk.address.replace("127.0.0.1", "localhost")
    await Standby(make_settings(redis_url, asterisk, ami=by_name)).check(
        {"worker": "first", "asterisk": asterisk.address, "entity": "02:00:00:00:00:01"}
    )


async def test_what_is_not_known_is_no_reason(redis_url: str, asterisk: SimulatedAsterisk) -> None:
    holder = {"worker": "first", "entity": "02:00:00:00:00:09"}
    await Standby(make_settings(redis_url, asterisk)).check(holder | {"entity": ""})
    await Standby(make_settings(redis_url, asterisk, ami_secret="wrong")).check(holder)
    await asterisk.stop()
    standby = Standby(make_settings(redis_url, asterisk))
    await standby.check(holder)
    await asterisk.start()
    assert "ENTITYID" not in asterisk.variables
    await Standby(make_settings(redis_url, asterisk)).check(holder)
