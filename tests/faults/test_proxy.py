"""The proxy does what it is told: each command seen from both of its sides."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.keys import Keys
from broker.scripts import Script
from tests.faults.proxy import Cut, Proxy
from tests.workers.worker_process import eventually


class Echo:
    """A server that says what it hears, packet by packet."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ends = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.heard.append(data)
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            self.ends += 1
            writer.close()


@asynccontextmanager
async def echo(seed: int = 0) -> AsyncIterator[tuple[Echo, Proxy]]:
    there = Echo()
    server = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    there.port = server.sockets[0].getsockname()[1]
    async with server, Proxy(there.port, seed) as proxy:
        yield there, proxy


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.1):
            return not await reader.read(1)
    except TimeoutError:
        return True


async def test_it_passes_bytes_and_ends_both_ways() -> None:
    async with echo() as (there, proxy):
        async with client(proxy) as (reader, writer):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        await eventually(lambda: there.ends == 1)
        await eventually(lambda: not proxy.links)


async def test_a_delay_holds_each_chunk() -> None:
    async with echo() as (_, proxy), client(proxy) as (reader, writer):
        proxy.delay_s = 0.1
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert loop.time() - began >= 0.2


async def test_packets_are_cut_at_every_boundary_in_turn() -> None:
    async with echo() as (there, proxy), client(proxy) as (reader, writer):
        proxy.cut = Cut.EVERYWHERE
        for _ in range(12):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        assert {len(each) for each in there.heard} >= {1, 2, 3, 4}
        assert b"".join(there.heard) == b"hello" * 12


async def test_random_cuts_come_of_the_seed() -> None:
    seen = []
    for seed in (1, 1, 2):
        async with echo(seed) as (_there, proxy):
            proxy.cut = Cut.RANDOM
            seen.append([proxy._boundary(100) for _ in range(10)])
    assert seen[0] == seen[1] != seen[2]


async def test_a_black_hole_keeps_the_connection_and_what_it_held_arrives_afterwards() -> None:
    async with echo() as (there, proxy), client(proxy) as (reader, writer):
        proxy.black_hole()
        writer.write(b"hello")
        assert await nothing_comes(reader)
        assert there.heard == []
        await proxy.heal()
        assert await reader.readexactly(5) == b"hello"


async def test_a_black_hole_of_one_way_lets_requests_through() -> None:
    async with echo() as (there, proxy), client(proxy) as (reader, writer):
        proxy.black_hole(up=False)
        writer.write(b"hello")
        await eventually(lambda: there.heard == [b"hello"])
        assert await nothing_comes(reader)


async def test_the_end_of_a_client_is_not_heard_through_a_black_hole() -> None:
    async with echo() as (there, proxy):
        async with client(proxy) as (reader, writer):
            writer.write(b"1")
            await reader.readexactly(1)
            proxy.black_hole()
            writer.write(b"2")
            writer.write_eof()
            assert await nothing_comes(reader)
        assert (there.ends, there.heard) == (0, [b"1"])
        await proxy.heal()
        await eventually(lambda: there.ends == 1)
        assert there.heard == [b"1", b"2"]


async def test_resets_are_resets() -> None:
    async with echo() as (there, proxy), client(proxy) as (reader, writer):
        writer.write(b"1")
        await reader.readexactly(1)
        assert proxy.reset_all() == 1
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await eventually(lambda: there.ends == 1)


async def test_refusing_is_undone_on_the_same_port() -> None:
    async with echo() as (_, proxy), client(proxy) as (reader, writer):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        await proxy.heal()
        async with client(proxy) as (again, other):
            other.write(b"2")
            assert await again.readexactly(1) == b"2"


async def test_a_silent_accept_says_nothing_and_is_reset_when_healed() -> None:
    async with echo() as (there, proxy):
        proxy.accept_silently()
        async with client(proxy) as (reader, writer):
            writer.write(b"1")
            assert await nothing_comes(reader)
            assert there.heard == []
            await proxy.heal()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)


async def test_only_the_matching_reply_is_lost_and_what_was_asked_has_happened(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy:
        through = aredis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0))
        loss = proxy.drop_replies(b"INCR", times=2)
        assert await through.set("other", 1)
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                await through.incr("n")
        assert await through.incr("n") == 3
        assert loss.is_over
        await through.aclose()


async def test_a_script_is_known_by_its_name_even_where_its_request_is_cut(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy:
        through = aredis.Redis(port=proxy.port, protocol=2, retry=Retry(NoBackoff(), 0))
        release = Script("release", Keys("pbx1"))
        assert await release(through, 1) == 0
        proxy.drop_script_replies("beat")
        proxy.drop_script_replies("release")
        async with Proxy(proxy.port) as before:
            before.cut = Cut.EVERYWHERE
            cut = aredis.Redis(port=before.port, protocol=2, retry=Retry(NoBackoff(), 0))
            with pytest.raises(redis.ConnectionError):
                await release(cut, 1)
            assert await release(cut, 1) == 0
            await cut.aclose()
        await through.aclose()


async def test_a_pattern_is_found_across_packets() -> None:
    async with echo() as (there, proxy), client(proxy) as (reader, writer):
        proxy.drop_replies(b"hello")
        writer.write(b"hel")
        assert await reader.readexactly(3) == b"hel"
        writer.write(b"lo")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        assert there.heard == [b"hel", b"lo"]


async def test_what_befalls_one_port_befalls_all_and_things_have_the_names_of_its_side() -> None:
    async with echo() as (first, _), echo() as (second, _), Proxy(first.port, 0, second.port) as proxy:
        proxy.names = {b"12345": b"54321"}
        one = await asyncio.open_connection("127.0.0.1", proxy.port)
        other = await asyncio.open_connection("127.0.0.1", proxy.ports[second.port])
        for (reader, writer), there in ((one, first), (other, second)):
            writer.write(b"it is 12345")
            assert await reader.readexactly(11) == b"it is 54321"
            assert there.heard == [b"it is 12345"]
        assert proxy.reset_all() == 2
        assert proxy.resets == 2
        for reader, writer in (one, other):
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()
