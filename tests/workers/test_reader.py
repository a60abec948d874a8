"""Entries in, on real servers: the doorbell, the group, and what is pending."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from broker.keys import ACTIONS, GROUP, LANES, URGENT
from tests.workers.worker_process import Desk, eventually, soon
from workers import reader as module
from workers import redis_client
from workers.config import Settings
from workers.reader import READ_COUNT, Reader
from workers.redis_client import connect


@pytest.fixture(autouse=True)
def silent_doorbell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doorbell that is not rung waits for longer than any test."""
    monkeypatch.setattr(module, "DOORBELL_MS", 600_000)
    monkeypatch.setattr(redis_client, "REDIS_TIMEOUT_S", 601.0)


@contextlib.asynccontextmanager
async def reading(url: str, name: str = "one") -> AsyncIterator[Reader]:
    redis = connect(url)
    try:
        yield Reader(redis, Settings(redis=url, server="pbx1", name=name))
    finally:
        await redis.aclose()


@pytest.fixture
async def reader(redis_url: str) -> AsyncIterator[Reader]:
    """With its groups made."""
    async with reading(redis_url) as made:
        await made.make_groups()
        yield made


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    async with Desk(redis_url) as opened:
        yield opened


async def is_blocked(desk: Desk) -> bool:
    return bool((await desk.redis.info("clients"))["blocked_clients"])


async def test_what_was_queued_before_the_first_start_is_not_skipped(redis_url: str, desk: Desk) -> None:
    entry = await desk.add("Ping", "a1")
    async with reading(redis_url) as reader:
        await reader.make_groups()
        await reader.make_groups()  # the next start
        assert [request.entry for request in await reader.read([ACTIONS], 10)] == [entry]
        assert await reader.read([ACTIONS], 10) == []


async def test_entries_come_in_order_with_repeated_fields(reader: Reader, desk: Desk) -> None:
    await desk.add("Originate", "a1", ("Variable", "a=1"), ("Variable", "b=2"), lane=URGENT)
    await desk.add("Ping", "a2")
    await desk.add("Ping", "a3")
    urgent, ordinary = await reader.read([URGENT], 10), await reader.read([ACTIONS], 10)
    assert urgent[0].pairs == [("Variable", "a=1"), ("Variable", "b=2")]
    assert [request.action_id for request in ordinary] == ["a2", "a3"]
    assert {request.lane for request in ordinary} == {ACTIONS}


async def test_no_more_is_taken_than_there_is_room_for(reader: Reader, desk: Desk) -> None:
    for n in range(5):
        await desk.add("Ping", f"a{n}")
    assert len(await reader.read([ACTIONS], 3)) == 3
    assert len(await reader.read([ACTIONS], 3)) == 2


@pytest.mark.parametrize("lane", LANES)
async def test_the_doorbell_rings_for_what_is_new(reader: Reader, desk: Desk, lane: str) -> None:
    await desk.add("Ping", "a1", lane=lane)
    await reader.read([lane], 10)
    ringing = asyncio.create_task(reader.doorbell())
    await eventually(lambda: is_blocked(desk))  # by a1, which is pending, it is not rung
    await desk.add("Ping", "a2", lane=lane)
    await soon(ringing)


async def test_the_doorbell_is_not_rung_by_what_was_taken_over(redis_url: str, desk: Desk) -> None:
    async with reading(redis_url, "lost") as lost, reading(redis_url, "next") as reader:
        await lost.make_groups()
        await desk.add("Ping", "a1")
        await lost.read([ACTIONS], 10)
        requests, _ = await reader.claim_all(ACTIONS)
        assert [request.action_id for request in requests] == ["a1"]
        ringing = asyncio.create_task(reader.doorbell())
        await eventually(lambda: is_blocked(desk))
        assert not ringing.done()
        ringing.cancel()


async def test_the_doorbell_of_a_lane_without_room_is_not_heard(reader: Reader, desk: Desk) -> None:
    await desk.add("Ping", "a1", lane=ACTIONS)
    ringing = asyncio.create_task(reader.doorbell([URGENT]))
    await eventually(lambda: is_blocked(desk))
    await desk.add("Ping", "a2", lane=URGENT)
    await soon(ringing)


async def test_a_doorbell_given_up_takes_nothing_along(reader: Reader, desk: Desk) -> None:
    ringing = asyncio.create_task(reader.doorbell())
    await eventually(lambda: is_blocked(desk))
    ringing.cancel()
    await asyncio.gather(ringing, return_exceptions=True)
    await desk.add("Ping", "a1")
    assert [request.action_id for request in await reader.read([ACTIONS], 10)] == ["a1"]


async def test_the_whole_pending_list_is_taken_over(redis_url: str, desk: Desk) -> None:
    many = READ_COUNT * 2 + 7
    async with reading(redis_url, "lost") as lost, reading(redis_url, "next") as reader:
        await lost.make_groups()
        for n in range(many):
            await desk.add("Ping", f"a{n}")
        while await lost.read([ACTIONS], 100):
            pass
        requests, gone = await reader.claim_all(ACTIONS)
        assert [request.action_id for request in requests] == [f"a{n}" for n in range(many)]
        assert gone == []
        pending = await desk.redis.xpending(desk.keys.actions, GROUP)
        assert [each["name"] for each in pending["consumers"]] == [b"next"]


async def test_a_pending_entry_that_was_deleted_is_named(reader: Reader, desk: Desk) -> None:
    entries = [await desk.add("Ping", f"a{n}") for n in range(3)]
    await reader.read([ACTIONS], 10)
    await desk.redis.xdel(desk.keys.actions, entries[1])
    for _ in range(2):  # it stays pending: whoever is lost before he has told of it leaves it to the next
        requests, gone = await reader.claim_all(ACTIONS)
        assert [request.entry for request in requests] == [entries[0], entries[2]]
        assert gone == [entries[1]]


async def test_entries_whose_reply_was_lost_are_found(reader: Reader, desk: Desk) -> None:
    entries = [await desk.add("Ping", f"a{n}") for n in range(4)]
    held = {request.entry for request in await reader.read([ACTIONS], 2)}
    await reader.read([ACTIONS], 2)  # nobody hears of these two
    missed, vanished = await reader.missed(ACTIONS, held, 100)
    assert ([request.entry for request in missed], vanished) == (entries[2:], [])
    assert await reader.missed(ACTIONS, set(entries), 100) == ([], [])


async def test_of_what_was_missed_that_which_has_vanished_is_named_and_stays_pending(
    reader: Reader, desk: Desk
) -> None:
    entries = [await desk.add("Ping", f"a{n}") for n in range(3)]
    await reader.read([ACTIONS], 10)  # nobody hears of these
    await desk.redis.xdel(desk.keys.actions, entries[1])
    for _ in range(2):  # until it is settled
        missed, vanished = await reader.missed(ACTIONS, set(), 100)
        assert ([request.entry for request in missed], vanished) == ([entries[0], entries[2]], [entries[1]])


async def test_what_was_settled_while_it_was_looked_for_has_not_vanished(
    reader: Reader, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await desk.add("Ping", "a1")
    await reader.read([ACTIONS], 10)
    claim = reader._claim

    async def settle_and_claim(lane: str, entries: list[str]) -> Any:
        await desk.redis.xack(desk.keys.actions, GROUP, entry)
        await desk.redis.xdel(desk.keys.actions, entry)
        return await claim(lane, entries)

    monkeypatch.setattr(reader, "_claim", settle_and_claim)
    assert await reader.missed(ACTIONS, set(), 100) == ([], [])


async def test_what_another_look_has_taken_meanwhile_has_not_vanished(
    reader: Reader, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await desk.add("Ping", "a1")
    await reader.read([ACTIONS], 10)
    held: set[str] = set()
    claim = reader._claim

    async def take_trim_and_claim(lane: str, entries: list[str]) -> Any:
        held.add(entry)
        await desk.redis.xtrim(desk.keys.actions, maxlen=0)
        return await claim(lane, entries)

    monkeypatch.setattr(reader, "_claim", take_trim_and_claim)
    assert await reader.missed(ACTIONS, held, 100) == ([], [])


async def test_entries_of_another_consumer_are_not_missed(redis_url: str, reader: Reader, desk: Desk) -> None:
    await desk.add("Ping", "a1")
    async with reading(redis_url, "two") as other:
        await other.read([ACTIONS], 10)
    assert await reader.missed(ACTIONS, set(), 100) == ([], [])


async def destroy_groups(desk: Desk) -> None:
    for lane in LANES:
        await desk.redis.xgroup_destroy(desk.keys.lane(lane), GROUP)


async def delete_streams(desk: Desk) -> None:
    await desk.redis.delete(*[desk.keys.lane(lane) for lane in LANES])


async def flush(desk: Desk) -> None:
    await desk.redis.flushall()


READS: dict[str, Callable[[Reader], Awaitable[Any]]] = {
    "read": lambda reader: reader.read([ACTIONS], 10),
    "missed": lambda reader: reader.missed(ACTIONS, set(), 10),
    "claim_all": lambda reader: reader.claim_all(ACTIONS),
}


@pytest.mark.parametrize("ruin", [destroy_groups, delete_streams, flush])
@pytest.mark.parametrize("first", list(READS))
async def test_a_group_that_is_gone_is_made_again(
    reader: Reader, desk: Desk, ruin: Callable[[Desk], Awaitable[None]], first: str
) -> None:
    await desk.add("Ping", "old")
    await reader.read([ACTIONS], 10)
    await ruin(desk)
    await READS[first](reader)
    new = await desk.add("Ping", "new")
    await soon(reader.doorbell())
    seen = [request.entry for request in await reader.read([ACTIONS], 10)]
    # Only where the stream itself is still there, what was pending is read again; it is up to the worker to know it.
    assert seen[-1] == new
    assert len(seen) == (2 if ruin is destroy_groups else 1)
