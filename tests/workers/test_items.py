"""Very large results: their items in chunks beside the record, while the list still comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgpack
import pytest
import redis.asyncio as aredis

from broker import Bus, ItemsGone
from broker.ami import Headers
from broker.codec import unpack_items
from broker.keys import Keys
from tests.workers.worker_process import SERVER, USERS, eventually, make_settings, running_worker
from workers.connection import CHUNK_ITEMS
from workers.items import MAX_INLINE_BYTES, Items, are_many
from workers.simulated import SimulatedAsterisk, queues

KEYS = Keys(SERVER)
MANY = 50_000


def item(number: int, size: int = 100) -> Headers:
    return Headers([("Event", "Item"), ("Number", str(number)), ("Text", "x" * size)])


class Shelf:
    """Takes chunks as Redis does; `open` is cleared while it is away."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.refuses_from = 1_000

    async def push(self, number: int, packed: bytes) -> bool:
        await self.open.wait()
        if number >= self.refuses_from:
            return False
        self.chunks = [*self.chunks[:number], packed]
        return True

    @property
    def numbers(self) -> list[int]:
        return [int(each["Number"]) for chunk in self.chunks for each in unpack_items(chunk, ())]


async def test_few_items_stay_with_their_result() -> None:
    shelf = Shelf()
    items = Items(shelf.push)
    items.add([item(number, size=10) for number in range(1000)])
    assert await items.add_last([item(1000)])
    assert not items.are_apart
    assert [int(each["Number"]) for each in items.few] == list(range(1001))
    assert shelf.chunks == []


async def test_many_items_go_apart_in_order() -> None:
    shelf = Shelf()
    items = Items(shelf.push)
    for first in range(0, 10_000, 1000):
        items.add([item(number) for number in range(first, first + 1000)])
    assert await items.add_last([item(10_000)])
    assert items.are_apart
    assert (items.count, items.chunks) == (10_001, 11)
    assert shelf.numbers == list(range(10_001))
    assert items.few == []


async def test_no_chunk_is_larger_than_the_contract_says() -> None:
    shelf = Shelf()
    items = Items(shelf.push)
    assert await items.add_last([item(number) for number in range(2 * CHUNK_ITEMS + 500)])
    assert [len(unpack_items(chunk, ())) for chunk in shelf.chunks] == [CHUNK_ITEMS, CHUNK_ITEMS, 500]
    assert (items.count, items.chunks) == (2500, 3)
    assert shelf.numbers == list(range(2500))


async def test_they_are_put_away_while_more_come() -> None:
    shelf = Shelf()
    items = Items(shelf.push)
    while not items.are_apart:
        items.add([item(number) for number in range(1000)])
    await eventually(lambda: len(shelf.chunks) == items.chunks)
    assert not items._packed, "nothing that Redis has is kept"


async def test_adding_does_not_wait_for_a_redis_that_is_away() -> None:
    shelf = Shelf()
    shelf.open.clear()
    items = Items(shelf.push)
    for first in range(0, 5000, 1000):
        items.add([item(number) for number in range(first, first + 1000)])
    last = asyncio.create_task(items.add_last([]))
    await asyncio.sleep(0)
    assert not last.done()
    shelf.open.set()
    assert await last
    assert shelf.numbers == list(range(5000))


async def test_an_answer_that_begins_anew_replaces_the_one_before() -> None:
    shelf = Shelf()
    items = Items(shelf.push)
    for _ in range(3):
        items.add([item(-1) for _ in range(1000)])
    items.begin_anew()
    assert items.count == 0
    for first in range(0, 4000, 1000):
        items.add([item(number) for number in range(first, first + 1000)])
    assert await items.add_last([])
    assert shelf.numbers == list(range(4000))


async def test_whoever_waits_hears_that_they_have_no_place() -> None:
    shelf = Shelf()
    shelf.refuses_from = 2
    items = Items(shelf.push)
    for _ in range(4):
        items.add([item(number) for number in range(1000)])
    assert not await items.add_last([])


async def test_what_was_not_utf_8_is_named() -> None:
    items = Items(Shelf().push)
    items.add([Headers([("Event", "Item"), ("Text", "\xe4" * MAX_INLINE_BYTES)], ("Text",))])
    assert items.are_apart
    assert items.latin1 == {"Text"}


def test_many_is_never_missed() -> None:
    assert not are_many([item(1)] * 10)
    for size, number in ((1, 8_000), (1000, 300), (300_000, 1)):
        items = [item(at, size) for at in range(number)]
        assert len(msgpack.packb([each.to_map() for each in items])) <= MAX_INLINE_BYTES or are_many(items)


# -- the whole way, on both kinds of server


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What QueueStatus lists."""
    listed = [(f"agent {number}", f"Local/{number}@default") for number in range(MANY)]
    monkeypatch.setattr(queues, "MEMBERS", listed)
    return listed


@contextlib.asynccontextmanager
async def served(redis_url: str, **settings: object) -> AsyncIterator[tuple[Bus, SimulatedAsterisk]]:
    async with (
        SimulatedAsterisk(users=USERS) as asterisk,
        running_worker(make_settings(redis_url, asterisk, **settings)),
        Bus(redis_url) as bus,
    ):
        yield bus, asterisk


async def test_a_list_of_fifty_thousand_items_comes_whole(redis_url: str, members: list[tuple[str, str]]) -> None:
    async with served(redis_url, record_read_s=70) as (bus, _), aredis.Redis.from_url(redis_url) as client:
        subscriber = client.pubsub()
        await subscriber.subscribe(KEYS.action("big"))
        await eventually(lambda: subscriber.get_message(timeout=1))
        result = await bus.server(SERVER).request("QueueStatus", action_id="big")
        named = [each["Name"] for each in result.events if each["Event"] == "QueueMember"]
        assert named == [name for name, _ in members]
        assert result.events[-1]["EventList"] == "Complete"

        message = await eventually(lambda: result_on(subscriber))
        assert len(message) < 2_000
        told = msgpack.unpackb(message)
        assert "events" not in told
        assert told["items"] == len(result.events)
        assert told["chunks"] == await client.llen(KEYS.items("big"))
        sizes = [len(msgpack.unpackb(chunk)) for chunk in await client.lrange(KEYS.items("big"), 0, -1)]
        assert max(sizes) <= CHUNK_ITEMS
        assert 0 < await client.pttl(KEYS.items("big")) <= 70_000 >= await client.pttl(KEYS.action("big"))
        await subscriber.aclose()  # type: ignore[no-untyped-call]


async def result_on(subscriber: "aredis.client.PubSub") -> bytes | None:
    message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)
    if message is None or b"result" not in message["data"][:20]:
        return None
    data: bytes = message["data"]
    return data


async def test_a_list_that_is_not_so_long_but_large_comes_apart_too(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MEMBERS", [("y" * 900, f"{number}") for number in range(900)])
    async with served(redis_url) as (bus, _), aredis.Redis.from_url(redis_url) as client:
        result = await bus.server(SERVER).request("QueueStatus", action_id="large")
        assert len(result.events) == 902
        assert await client.llen(KEYS.items("large")) == result.chunks == 1


async def test_a_list_that_is_cut_off_comes_whole_all_the_same(redis_url: str, members: list[tuple[str, str]]) -> None:
    async with served(redis_url) as (bus, asterisk):
        asking = asyncio.create_task(bus.server(SERVER).request("QueueStatus"))
        await eventually(lambda: any(each.action == "QueueStatus" for each in asterisk.written))
        await asterisk.drop_connections()
        result = await asking
        assert len(result.events) == len(members) + 2


async def test_other_actions_go_on_while_redis_takes_the_items(redis_url: str, members: list[tuple[str, str]]) -> None:
    async with served(redis_url) as (bus, _):
        pbx = bus.server(SERVER)
        asking = asyncio.create_task(pbx.request("QueueStatus"))
        changes = 0
        while not asking.done():
            await pbx.request("Setvar", Variable="x", Value="1")
            changes += 1
        assert len((await asking).events) == len(members) + 2
        assert changes > 10


async def test_who_comes_too_late_for_the_items_is_told(redis_url: str, members: list[tuple[str, str]]) -> None:
    async with served(redis_url) as (bus, _), aredis.Redis.from_url(redis_url) as client:
        call = await bus.server(SERVER).submit("QueueStatus", action_id="late")
        await eventually(lambda: client.hget(KEYS.action("late"), "settled_at"))
        await client.delete(KEYS.items("late"))
        with pytest.raises(ItemsGone, match="late are not kept any more"):
            await call.result()
