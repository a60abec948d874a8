"""What is asked of Redis before anything is sent."""

import asyncio
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from broker.errors import SettingsError
from tests.servers import RedisServer
from workers.redis_check import check_redis, publish_command, server_name


async def check(url: str) -> dict[str, Any]:
    redis = Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=30)
    try:
        async with asyncio.timeout(60):
            return await check_redis(redis, url)
    finally:
        await redis.aclose()


async def refused(url: str) -> str:
    with pytest.raises(SettingsError) as caught:
        await check(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_suitable_redis_is_told_by_name(redis_server: RedisServer) -> None:
    name = server_name(await check(redis_server.url))
    assert name.startswith(f"{redis_server.kind} {'7.' if redis_server.kind == 'redis' else '9.'}")


async def test_one_that_evicts_is_refused(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    sentence = await refused(own_redis.url)
    assert "maxmemory-policy is allkeys-lru" in sentence
    assert "set it to noeviction" in sentence


async def test_one_that_does_not_persist_is_warned_of(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("appendonly", "no")
    with structlog.testing.capture_logs() as logs:
        await check(own_redis.url)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "does not persist" in logs[0]["event"]


@pytest.mark.parametrize("login", ["", "default:wrong-hush@", "nobody:wrong-hush@", "may-nothing:hush@"])
async def test_a_refused_login_ends_at_once_and_shows_no_password(own_redis: RedisServer, login: str) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "may-nothing", "on", ">hush", "+ping", "+hello", "+client")
        client.config_set("requirepass", "right")
        sentence = await refused(own_redis.url.replace("redis://", f"redis://{login}"))
        client.execute_command("AUTH", "right")
    assert "refused the user or its rights" in sentence
    assert "hush" not in sentence


async def test_something_else_on_the_port_is_told() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert "cannot be used" in await refused(f"redis://127.0.0.1:{port}/0")


async def test_one_that_is_away_is_waited_for(own_redis: RedisServer) -> None:
    own_redis.kill()
    checking = asyncio.create_task(check(own_redis.url))
    await asyncio.sleep(0)
    await asyncio.to_thread(own_redis.start)
    assert await checking


@pytest.mark.parametrize("version", ["6.2.14", "6.255", "5", "0", "unknown"])
def test_an_old_redis_is_refused(version: str) -> None:
    from workers.redis_check import _check_version

    with pytest.raises(SettingsError, match="too old"):
        _check_version({"redis_version": version})


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.6.0", "7.0-rc1", "10.0", 7.2, "255.255.255"])
def test_a_new_one_is_taken(version: Any) -> None:
    from workers.redis_check import _check_version

    _check_version({"redis_version": version})


def test_a_cluster_publishes_by_slot() -> None:
    assert publish_command({"cluster_enabled": 1}) == "SPUBLISH"
    assert publish_command({"cluster_enabled": 0}) == publish_command({}) == "PUBLISH"


def test_valkey_says_its_own_name() -> None:
    assert server_name({"redis_version": "7.2.4", "valkey_version": "9.1.2"}) == "valkey 9.1.2"
    assert server_name({"redis_version": "7.0.15"}) == "redis 7.0.15"
