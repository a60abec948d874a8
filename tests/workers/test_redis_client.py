"""The worker's connections: what is lost is a `ConnectionError`, whatever the event loop calls it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from workers.redis_client import connect


async def ping(connection: Any) -> None:
    await connection.send_command("PING")
    await connection.read_response()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_write_to_a_connection_that_was_just_reset_is_a_connection_error(
    redis_url: str, new_loop: Callable[[], Any]
) -> None:
    async def write() -> None:
        client = connect(redis_url)
        pool: Any = client.connection_pool
        connection = await pool.get_connection()
        try:
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError):
                await ping(connection)
        finally:
            await pool.release(connection)
            await client.aclose()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(write())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://host:1/0", Connection),
        ("rediss://host:1/0", SSLConnection),
        ("unix:///run/redis.sock", UnixDomainSocketConnection),
    ],
)
def test_each_scheme_connects_in_its_own_way(url: str, kind: type) -> None:
    pool: Any = connect(url).connection_pool
    made = pool.make_connection()
    assert type(made)._connect is kind._connect  # type: ignore[attr-defined]
