"""The search for OriginateResponses in the events stream, on real servers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as aredis

from broker.ami import Headers
from broker.codec import BusEvent, event_map, pack
from broker.keys import Keys
from workers.event_search import READ_COUNT, EventSearch

KEYS = Keys("pbx1")
NOW = 1_700_000_000.0
KEEP_S = 3600.0


class Clock:
    """Redis' time as the search is told it."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        return self.time


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with aredis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def redis_time() -> Clock:
    return Clock()


@pytest.fixture
def search(redis: Any, redis_time: Clock) -> EventSearch:
    return EventSearch(redis, KEYS, KEEP_S, redis_time.now)


async def publish(redis: Any, action_id: str, at: float, name: str = "OriginateResponse", **more: str) -> None:
    """An event as it is in the stream, published at that time (unix seconds)."""
    headers = Headers([("ActionID", action_id), *more.items()])
    data = pack(event_map(BusEvent("pbx1", name, headers, [action_id], 7, 1)))
    await redis.xadd(KEYS.events, {"event": name, "data": data}, id=f"{int(at * 1000)}-*")


async def reads(redis: Any) -> int:
    """How often the stream was read so far."""
    stats = await redis.info("commandstats")
    calls: int = stats.get("cmdstat_xrange", {"calls": 0})["calls"]
    return calls


async def test_only_the_outcome_of_that_call_is_found(redis: Any, search: EventSearch) -> None:
    await publish(redis, "c1", NOW, "Newchannel")
    await publish(redis, "c2", NOW, Reason="4")
    await redis.xadd(KEYS.events, {"event": "OriginateResponse", "data": b"somebody else's"})
    found = await search.originate_response("c2", NOW)
    assert found is not None
    assert found["Reason"] == "4"
    assert await search.originate_response("c1", NOW) is None


async def test_what_was_published_later_is_found_by_the_next_search(redis: Any, search: EventSearch) -> None:
    await publish(redis, "c1", NOW)
    assert await search.originate_response("c2", NOW) is None
    await publish(redis, "c2", NOW)
    assert await search.originate_response("c2", NOW) is not None


async def test_many_searches_at_once_read_the_stream_together(redis: Any, search: EventSearch) -> None:
    async with redis.pipeline(transaction=False) as filling:
        for number in range(4 * READ_COUNT):
            filling.xadd(KEYS.events, {"event": "Newchannel", "data": b""}, id=f"{int(NOW * 1000)}-{number + 1}")
        await filling.execute()
    for number in range(100):
        await publish(redis, f"c{number}", NOW + 1)
    before = await reads(redis)
    # The oldest comes last: the others' reading has to begin as early as its own.
    found = await asyncio.gather(*[search.originate_response(f"c{n}", NOW - n / 1000) for n in range(100)])
    assert all(found)
    once = 5  # pages, the last of them not full
    assert await reads(redis) - before <= 2 * once, "the first search, and one for all who came after it had begun"


async def test_what_is_published_while_another_search_reads_is_not_missed(
    redis: Any, search: EventSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, is_read, released = redis.xrange, asyncio.Event(), asyncio.Event()

    async def read_and_wait(*args: Any, **options: Any) -> Any:
        entries = await read(*args, **options)
        is_read.set()
        await released.wait()
        return entries

    monkeypatch.setattr(redis, "xrange", read_and_wait)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(search.originate_response("c1", NOW))
        await is_read.wait()
        await publish(redis, "c2", NOW)
        second = group.create_task(search.originate_response("c2", NOW))
        await asyncio.sleep(0)  # it has asked
        released.set()
    assert first.result() is None
    assert second.result() is not None


@pytest.mark.parametrize("ending", [ConnectionError(), asyncio.CancelledError()], ids=["failed", "cancelled"])
async def test_a_search_that_does_not_end_costs_the_next_nothing(
    redis: Any, search: EventSearch, monkeypatch: pytest.MonkeyPatch, ending: BaseException
) -> None:
    await publish(redis, "c1", NOW)
    read, endings = redis.xrange, [ending]

    async def read_or_end(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(0)  # the other one has asked, too
        if endings:
            raise endings.pop()
        return await read(*args, **options)

    monkeypatch.setattr(redis, "xrange", read_or_end)
    told = await asyncio.gather(*[search.originate_response("c1", NOW) for _ in range(2)], return_exceptions=True)
    assert isinstance(told[0], type(ending))
    assert isinstance(told[1], Headers)


async def test_what_was_published_before_that_time_is_of_another_call(redis: Any, search: EventSearch) -> None:
    """An ActionID may come again once its record is gone."""
    await publish(redis, "c1", NOW)
    assert await search.originate_response("c1", NOW) is not None
    assert await search.originate_response("c1", NOW + 60) is None
    await publish(redis, "c1", NOW + 61, Reason="5")
    found = await search.originate_response("c1", NOW + 60)
    assert found is not None
    assert found["Reason"] == "5"


async def test_an_earlier_time_is_looked_through_although_a_later_one_was(redis: Any, search: EventSearch) -> None:
    await publish(redis, "c1", NOW - 60)
    await publish(redis, "c2", NOW)
    assert await search.originate_response("c2", NOW) is not None
    assert await search.originate_response("c1", NOW - 60) is not None


async def test_what_is_older_than_a_record_is_forgotten(redis: Any, search: EventSearch, redis_time: Clock) -> None:
    await publish(redis, "c1", NOW)
    await publish(redis, "c2", NOW + 60)
    assert await search.originate_response("c1", NOW) is not None
    await redis.xtrim(KEYS.events, maxlen=0)
    redis_time.time = NOW + KEEP_S - 5
    assert await search.originate_response("c1", NOW) is not None, "it is remembered for as long as a record is"
    redis_time.time += 30
    assert await search.originate_response("c1", NOW) is None
    assert await search.originate_response("c2", NOW + 60) is not None


async def test_what_is_older_than_a_record_is_found_all_the_same(
    redis: Any, search: EventSearch, redis_time: Clock
) -> None:
    """What was begun has a record without an end of its life."""
    await publish(redis, "c1", NOW)
    redis_time.time = NOW + 10 * KEEP_S
    for _ in range(2):
        assert await search.originate_response("c1", NOW) is not None
