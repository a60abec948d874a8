"""Connections through real sentinels, as the clients use them."""

import asyncio
import errno
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from broker import redis_pool
from broker.client import Bus
from broker.errors import BusUnavailable, SettingsError
from broker.link import Address, Interrupted, Link, pack_command
from broker.redis_pool import make_pool
from tests.bus_side import until
from tests.ports import free_port
from tests.sentinel import SERVICE, Sentinels, SentinelServer
from tests.servers import KINDS, need

PASSWORD = "hush-of-redis"
SENTINEL_PASSWORD = "hush-of-sentinels"


@pytest.fixture(scope="module", params=KINDS)
def guarded(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    """Servers and sentinels with a password each; these tests leave the primary where it is."""
    need(request.param)
    service = Sentinels(request.param, PASSWORD, SENTINEL_PASSWORD)
    try:
        service.start()
        yield service
    finally:
        service.stop()


async def refusal(url: str) -> str:
    """What a client says of a URL that leads nowhere."""
    with pytest.raises(BusUnavailable) as caught:
        async with Bus(url):
            pass
    text = str(caught.value)
    assert "hush" not in text
    assert "\n" not in text
    return text


async def test_passwords_of_both_kinds(guarded: Sentinels) -> None:
    async with Bus(guarded.url) as bus:
        assert await bus.servers() == {}
        assert repr(bus) == f"<Bus redis+sentinel://:***@{guarded.hosts}/{SERVICE}/0 prefix=ami>"


async def test_a_wrong_password_of_the_sentinels(guarded: Sentinels) -> None:
    text = await refusal(guarded.url.replace(SENTINEL_PASSWORD, "hush"))
    assert text.startswith(f"Redis at redis+sentinel://:***@{guarded.hosts}/{SERVICE}/0 cannot be found: no sentinel")
    for sentinel in guarded.sentinels:
        assert f"127.0.0.1:{sentinel.port} refused: " in text


async def test_no_password_for_the_sentinels(guarded: Sentinels) -> None:
    assert "refused: " in await refusal(guarded.url.partition("?")[0])


async def test_a_wrong_password_of_redis(guarded: Sentinels) -> None:
    assert "refused the login of user 'default'" in await refusal(guarded.url.replace(PASSWORD, "hush"))


async def test_a_wrong_service(guarded: Sentinels) -> None:
    text = await refusal(guarded.url.replace(f"/{SERVICE}/", "/other/"))
    assert "no sentinel names a primary of 'other'" in text
    assert text.count("does not know it") == 3


async def test_no_sentinel_at_all() -> None:
    ports = [free_port(), free_port()]
    text = await refusal(f"redis+sentinel://:hush@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/{SERVICE}")
    for port in ports:
        assert f"127.0.0.1:{port} cannot be reached: " in text


async def test_sentinels_that_are_gone_or_say_nothing_are_passed_over(
    guarded: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pool, "SENTINEL_TIMEOUT_S", 4.0)
    monkeypatch.setattr(redis_pool, "ALL_SENTINELS_S", 60.0)
    silent = guarded.sentinels[0]
    url = guarded.url.replace(guarded.hosts, f"127.0.0.1:{free_port()},{guarded.hosts}")
    assert silent.process is not None
    silent.process.send_signal(signal.SIGSTOP)
    try:
        address = Address(url)
        loop = asyncio.get_running_loop()
        began = loop.time()
        link = await Link(address).open()
        assert loop.time() - began < 30
        await link.close()
        began = loop.time()
        link = await Link(address).open()
        assert loop.time() - began < 4, "the one that answered is asked first"
        await link.close()
    finally:
        silent.process.send_signal(signal.SIGCONT)


async def test_no_connection_to_a_sentinel_stays_open(guarded: Sentinels) -> None:
    async with Bus(guarded.url):
        for sentinel in guarded.sentinels:
            # one is that which asks; a server learns a little later that its client has gone
            await until(lambda: _connections(sentinel) <= 1)  # noqa: B023


def _connections(sentinel: SentinelServer) -> int:
    clients = sentinel.command("CLIENT", "LIST", "TYPE", "normal")
    return sum("lib-name=redis-py" in str(client) for client in clients)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_at_the_end_of_a_write_to_a_sentinel(
    guarded: Sentinels, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    write = AbstractConnection._send_packed_command

    async def write_at_last(connection: AbstractConnection, command: Iterable[bytes]) -> None:
        await write(connection, command)
        opening.cancel()
        if fails:
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(AbstractConnection, "_send_packed_command", write_at_last)
    opening = asyncio.create_task(Link(Address(guarded.url)).open())
    await asyncio.wait([opening])
    assert opening.cancelled()


async def test_a_demoted_primary_is_given_up(sentinels: Sentinels) -> None:
    link = await Link(Address(sentinels.url)).open()
    [reply] = await link.execute([pack_command("SET", "k", 1)])
    assert reply == b"OK"
    with sentinels.primary.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", sentinels.replica.port)  # nobody cuts the connections
    with pytest.raises(Interrupted):
        await link.execute([pack_command("SET", "k", 2)])
    await link.close()


async def test_after_a_fail_over_the_client_finds_the_new_primary(sentinels: Sentinels) -> None:
    async with Bus(sentinels.url) as bus:
        await bus.servers()
        await asyncio.to_thread(sentinels.fail_over)
        with sentinels.primary.client() as client:
            client.zadd("ami:servers", {"pbx7": 1})

        async def finds_it() -> bool:
            try:
                return await bus.servers() == {"pbx7": 1.0}
            except BusUnavailable:
                return False

        await until(finds_it)


def test_what_did_not_reach_a_lagging_replica_is_lost_by_a_fail_over(sentinels: Sentinels) -> None:
    with sentinels.primary.client() as client:
        client.set("before", 1)
        sentinels.catch_up()
        sentinels.lag()
        client.set("after", 1)
    sentinels.fail_over()
    with sentinels.primary.client() as client:
        assert client.keys() == ["before"]
        client.set("new", 1)
    sentinels.restore()
    sentinels.catch_up()
    with sentinels.replica.client() as client:
        assert sorted(client.keys()) == ["before", "new"], "a clean slate for the old primary"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_write_to_a_connection_that_was_just_reset_is_a_connection_error(
    redis_url: str, new_loop: Callable[[], Any]
) -> None:
    async def ping(connection: Any) -> None:
        await connection.send_command("PING")
        await connection.read_response()

    async def write() -> None:
        pool: Any = make_pool(redis_url)
        connection = pool.make_connection()
        await connection.connect()
        try:
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError):
                await ping(connection)
        finally:
            await connection.disconnect()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(write())


def test_tls() -> None:
    class Mixin:
        pass

    pool = make_pool("rediss+sentinel://h:1/s?ssl_cert_reqs=none", Mixin)
    assert issubclass(pool.connection_class, SentinelManagedSSLConnection)
    assert issubclass(pool.connection_class, Mixin)


@pytest.mark.parametrize(
    "url", ["redis://h/0?nonsense=1", "redis+sentinel://h/s?nonsense=1", "redis://h/0?socket_connect_timeout=x"]
)
def test_an_option_that_cannot_be(url: str) -> None:
    with pytest.raises(SettingsError, match="is wrong: it cannot be read"):
        make_pool(url)


def test_what_is_ours_wins_over_the_urls_options_and_those_over_defaults() -> None:
    pool = make_pool(
        "redis://h/0?socket_timeout=7&protocol=3&socket_connect_timeout=8",
        defaults={"socket_connect_timeout": 1, "socket_keepalive": True},
        socket_timeout=3,
    )
    options = pool.connection_kwargs
    assert (options["socket_timeout"], options["protocol"]) == (3, 2)
    assert (options["socket_connect_timeout"], options["socket_keepalive"]) == (8.0, True)
