"""What befalls Redis: the rows of the fault matrix that are about it, against a worker process."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from broker import Bus, BusUnavailable
from broker.keys import GROUP, Keys
from tests.faults.redis_stage import RedisStage, redis_stage
from tests.servers import KINDS, RedisServer, need
from tests.workers.worker_process import BUSY_S, SERVER, eventually

KEYS = Keys(SERVER)
IDS = [f"v{number}" for number in range(50)]
Note = Callable[[str, object], None]
"""`record_property`: what was seen, for the report."""


@pytest.fixture
async def stage(own_redis: RedisServer) -> AsyncIterator[RedisStage]:
    async with redis_stage(own_redis) as stage:
        yield stage


# -- by command


def script_flush(client: Any) -> None:
    client.script_flush()


def destroy_groups(client: Any) -> None:
    for lane in (KEYS.actions, KEYS.urgent):
        with contextlib.suppress(Exception):  # the worker has not made it again yet
            client.xgroup_destroy(lane, GROUP)


def delete_lanes(client: Any) -> None:
    client.delete(KEYS.actions, KEYS.urgent)


def kill_everyone(client: Any) -> None:
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


def flush_all(client: Any) -> None:
    client.flushall()


KEEPING = (script_flush, destroy_groups, kill_everyone)
"""What takes no entry away."""

FAULTS = (*KEEPING, delete_lanes, flush_all)


@pytest.mark.parametrize("fault", FAULTS)
async def test_once_with_actions_under_way(
    stage: RedisStage, fault: Callable[[Any], None], record_property: Note
) -> None:
    await stage.hold(*IDS)
    with stage.server.client() as client:
        fault(client)
    stage.let_go()
    record_property("working_again_s", round(await stage.works_again("after"), 2))
    if fault in KEEPING:
        await stage.all_done(*IDS)
        assert stage.changes(*IDS) == IDS
    await stage.met(stage.desk.backlog_is_empty)
    assert await stage.desk.pending() == 0
    await stage.check(errors=fault is flush_all)


@pytest.mark.parametrize("fault", FAULTS)
async def test_again_and_again(stage: RedisStage, fault: Callable[[Any], None], record_property: Note) -> None:
    await asyncio.gather(stage.repeatedly(fault), stage.queue(*IDS))
    record_property("working_again_s", round(await stage.works_again("after"), 2))
    if fault in KEEPING:
        await stage.all_done(*IDS)
    await stage.met(stage.desk.backlog_is_empty)
    await stage.check()


# -- the process


@pytest.fixture(params=[(kind, fsync) for kind in KINDS for fsync in ("always", "everysec")], ids="-".join)
def syncing_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that writes its append-only file in one of the two recommended ways."""
    kind, fsync = request.param
    need(kind)
    server = RedisServer(kind, "--appendfsync", fsync)
    server.start()
    yield server
    server.stop()


async def test_killed_and_started_again(syncing_redis: RedisServer, record_property: Note) -> None:
    async with redis_stage(syncing_redis) as stage:
        await stage.hold(*IDS)
        with syncing_redis.client() as client:
            await eventually(lambda: is_written(client))
        syncing_redis.kill()
        stage.let_go()
        await stage.worker.said("redis is away")
        await asyncio.to_thread(syncing_redis.start)
        record_property("working_again_s", round(await stage.works_again("after"), 2))
        await stage.all_done(*IDS)
        assert stage.changes(*IDS) == IDS
        await stage.met(stage.desk.backlog_is_empty)
        await stage.worker.said("redis is back")
        assert len(stage.worker.lines("redis is away")) == len(stage.worker.lines("redis is back")) == 1
        await stage.check(errors=False)


def is_written(client: Any) -> bool:
    """Whether the append-only file has all that was accepted. By `everysec` a write that comes while the disk is slow
    waits in the server's memory, and is lost when that is killed."""
    return bool(client.info("persistence")["aof_buffer_length"] == 0)


async def test_silence(stage: RedisStage, record_property: Note) -> None:
    await stage.hold(*IDS)
    stage.server.send(signal.SIGSTOP)
    began = time.monotonic()
    try:
        stage.let_go()
        await stage.worker.said("redis is away")
        record_property("noticed_after_s", round(time.monotonic() - began, 2))
        assert time.monotonic() - began < 10 + BUSY_S
        # The lease is over by the worker's own clock: meanwhile nothing more may be written.
        written = stage.changes()
        await asyncio.sleep(1)
        assert stage.changes() == written
    finally:
        stage.server.send(signal.SIGCONT)
    record_property("working_again_s", round(await stage.works_again("after"), 2))
    await stage.all_done(*IDS)
    assert stage.changes(*IDS) == IDS
    await stage.met(stage.desk.backlog_is_empty)
    await stage.check()


# -- memory


async def test_full(stage: RedisStage, record_property: Note) -> None:
    await stage.hold(*IDS)
    with stage.server.client() as client:
        client.config_set("maxmemory", 1)
        async with Bus(stage.server.url) as bus:
            with pytest.raises(BusUnavailable, match=r"is out of memory and refused XADD ami:\{pbx1\}:actions"):
                await bus.server(SERVER).request("Ping", timeout=10)
        stage.let_go()
        # What was begun is settled; nothing else is begun, and the heart beats on.
        await stage.all_done(IDS[0])
        await stage.worker.said("redis is full")
        beat = await stage.met(stage.desk.heartbeat)
        await stage.met(lambda: beats_on(stage, beat["heartbeat_at"]))
        assert stage.changes(*IDS) == IDS[:1]
        assert await stage.desk.record(IDS[1]) == {}
        client.config_set("maxmemory", 0)
    record_property("working_again_s", round(await stage.works_again("after"), 2))
    await stage.all_done(*IDS)
    assert len(stage.worker.lines("redis is full")) == 1
    await stage.met(stage.desk.backlog_is_empty)
    await stage.check(errors=False)


async def beats_on(stage: RedisStage, before: str) -> bool:
    return (await stage.desk.heartbeat()).get("heartbeat_at", "") > before


# -- keys of a wrong type

BESIDE_THE_WAY = ("worker", "servers", "events")
"""No action needs these: they are carried out all the same."""


@pytest.mark.parametrize("name", ["legs", "events", "results", "dead", "actions", "urgent", "worker", "servers"])
async def test_a_key_of_a_wrong_type_is_named_until_it_is_gone(
    stage: RedisStage, name: str, record_property: Note
) -> None:
    key = "ami:servers" if name == "servers" else getattr(KEYS, name)
    await stage.hold(*IDS)
    with stage.server.client() as client:
        has_been = client.exists(key)
        with client.pipeline(transaction=True) as at_once:  # the worker makes a key that is missing
            if has_been:
                at_once.rename(key, "aside")
            at_once.set(key, "not ours")
            at_once.execute()
        stage.let_go()
        await stage.desk.originate("c1") if name != "actions" else None
        stage.asterisk.tell("Reload", "system", ("Module", "x"))
        line = await stage.worker.said("a key on redis is of a wrong type")
        wanted = stage.desk.keys.types[key]
        assert line["error"] == f"WRONGTYPE {key} is something else than a {wanted}: RENAME it away, or DEL it"
        assert line["level"] == "error"
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > 2.2)
        if name in BESIDE_THE_WAY:
            await stage.works_again("meanwhile")
        assert client.get(key) == "not ours"
        if has_been:
            client.rename("aside", key)
        else:
            client.delete(key)
    record_property("working_again_s", round(await stage.works_again("after"), 2))
    await stage.all_done(*IDS)
    assert stage.changes(*IDS) == IDS
    await stage.met(stage.desk.backlog_is_empty)
    lines = await stage.desk.lines(KEYS.results)
    assert sorted(line["action_id"] for line in lines if line["action_id"] in IDS) == sorted(IDS), "each is told once"
    await stage.met(lambda: stage.desk.is_served_by("one"))
    await stage.check()


@pytest.mark.parametrize("name", ["lease", "epoch"])
async def test_lease_and_epoch_are_made_anew(stage: RedisStage, name: str, record_property: Note) -> None:
    await stage.queue(*IDS)
    with stage.server.client() as client:
        client.delete(getattr(KEYS, name))
        client.rpush(getattr(KEYS, name), "not ours")
        record_property("working_again_s", round(await stage.works_again("after"), 2))
        await stage.met(lambda: stage.desk.is_served_by("one"))
        await eventually(lambda: client.type(getattr(KEYS, name)) == "string")
    await stage.met(stage.desk.backlog_is_empty)
    await stage.check()


async def test_something_else_in_the_place_of_a_record(stage: RedisStage) -> None:
    await stage.hold(*IDS)
    with stage.server.client() as client:
        client.set(KEYS.action("v7"), "not ours")
        stage.let_go()
        await stage.all_done(*IDS[:7], *IDS[8:])
        await stage.met(stage.desk.backlog_is_empty)
        assert client.get(KEYS.action("v7")) == "not ours"
        (line,) = [line for line in await stage.desk.lines(KEYS.results) if line["action_id"] == "v7"]
        assert (line["state"], line["error_code"]) == ("rejected", "action-id-reused")
        client.delete(KEYS.action("v7"))
    await stage.works_again("v7")
    await stage.check(errors=False)


async def test_a_worker_that_starts_beside_keys_of_a_wrong_type(stage: RedisStage) -> None:
    await stage.hold(*IDS)
    await stage.worker.kill()
    stage.let_go()
    with stage.server.client() as client:
        client.delete(KEYS.legs)
        client.set(KEYS.legs, "not ours")
        client.delete(KEYS.action("v0"))
        client.set(KEYS.action("v0"), "not ours")
        await stage.worker.start()
        assert KEYS.legs in (await stage.worker.said("a key on redis is of a wrong type"))["error"]
        client.delete(KEYS.legs)
    await stage.all_done(*IDS[1:])
    await stage.met(stage.desk.backlog_is_empty)
    assert stage.asterisk.write_counts()["v0"] <= 1
