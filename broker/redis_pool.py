"""redis-py's connections for a URL, to one server or to the primary that the sentinels name, without its retries."""

from collections.abc import Mapping
from typing import Any, Final

from redis import RedisError
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004
    ResponseError,
)

from broker.errors import SettingsError
from broker.redis_url import SentinelUrl, is_sentinel_url, masked

SENTINEL_TIMEOUT_S: Final = 1.0
"""A sentinel that says nothing for so long is passed over: the next one knows as much."""

ALL_SENTINELS_S: Final = 3.0
"""And all of them together are given so long, less than a connection is."""


class _LosesAlike(AbstractConnection):
    """Loses its connection in the same words on every event loop."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            # What uvloop says of a socket that was reset in the meantime, where asyncio's loop lets the next read fail.
            if "handler is closed" not in str(error):
                raise
            raise ConnectionError(f"the connection was lost before the write: {error}") from error


class PrimaryNotFound(MasterNotFoundError):
    """No sentinel names a primary now; the text says what each of them said."""


class SentinelsRefused(PrimaryNotFound):
    """Every sentinel answered, and none of them ever will otherwise: only an operator can mend it."""


class NamedSentinels(Sentinel):
    """redis-py's `Sentinel`, which asks on connections that are closed again and tells what it was told."""

    def __init__(self, url: SentinelUrl, options: Mapping[str, Any]) -> None:
        # Without clients for its sentinels: redis-py would keep a connection to each open for good.
        super().__init__([])  # type: ignore[no-untyped-call]
        self._addresses = list(url.addresses)
        timeout_s = min(SENTINEL_TIMEOUT_S, ALL_SENTINELS_S / len(url.addresses))
        self._options: dict[str, Any] = {
            **{name: value for name, value in options.items() if name.startswith("ssl_")},
            "connection_class": _made_of(SSLConnection if url.is_tls else Connection), "protocol": 2,
            "username": url.username, "password": url.password, "client_name": options.get("client_name"),
            "retry": Retry(NoBackoff(), 0), "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s,
        }  # fmt: skip

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The primary's address, as the first sentinel tells it that can. Raises `PrimaryNotFound`."""
        said: list[str] = []
        final = 0
        for address in tuple(self._addresses):
            host, port = address
            try:
                state = await self._ask(host, port, service_name)
            except (AuthenticationError, ResponseError) as error:
                said.append(f"{host}:{port} refused: {error}")
                final += 1
                continue
            except (RedisError, OSError) as error:
                said.append(f"{host}:{port} cannot be reached: {str(error) or 'no answer in time'}")
                continue
            if state is None:
                said.append(f"{host}:{port} does not know it")
                final += 1
            elif self.check_master_state(state, service_name):
                self._prefer(address)
                return state["ip"], state["port"]
            else:
                said.append(f"{host}:{port} says that it is down")
        kind = SentinelsRefused if final == len(said) else PrimaryNotFound
        raise kind(f"no sentinel names a primary of {service_name!r}: {'; '.join(said)}")

    async def _ask(self, host: str, port: int, service: str) -> dict[str, Any] | None:
        async with Redis.from_pool(ConnectionPool(host=host, port=port, **self._options)) as sentinel:
            masters: Any = await sentinel.sentinel_masters()
        state: dict[str, Any] | None = masters.get(service)
        return state

    def _prefer(self, address: tuple[str, int]) -> None:
        """Ask first whoever answered last."""
        self._addresses.remove(address)
        self._addresses.insert(0, address)


def make_pool(
    url: str, mixin: type | None = None, *, defaults: Mapping[str, Any] | None = None, **own: Any
) -> ConnectionPool:
    """A pool for this URL, whose options win over `defaults` and give way to our `own`.

    `mixin` comes before redis-py's class of connections. Raises `SettingsError` for a URL that cannot be read, without
    a password in its text.
    """
    sentinels = SentinelUrl.parse(url) if is_sentinel_url(url) else None
    try:
        given: dict[str, Any] = dict(parse_url(url if sentinels is None else sentinels.server_url))
        base: type = given.pop("connection_class", Connection)
        if sentinels is not None:
            given.pop("host")
            base = SentinelManagedSSLConnection if sentinels.is_tls else SentinelManagedConnection
        # redis-py repeats a command up to ten times by default, and so may add an action more often than anybody
        # asked, or run a script behind our back: who repeats, and when, is our decision.
        options = {**(defaults or {}), **given, **own, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False,
                   "connection_class": _made_of(base, *([] if mixin is None else [mixin]))}  # fmt: skip
        # RESP2: the replies have one shape, whatever redis-py's default and the URL say.
        options["protocol"] = 2
        if issubclass(base, UnixDomainSocketConnection):
            options.pop("socket_keepalive", None)  # it knows no such thing
        if sentinels is None:
            pool = ConnectionPool(**options)
        else:
            pool = SentinelConnectionPool(sentinels.service, NamedSentinels(sentinels, options), **options)  # type: ignore[no-untyped-call]
        # It opens nothing, but refuses options that it does not know.
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError) as error:
        # Not chained: redis-py's text may quote the URL, and with it the password.
        known = error.args[0] if str(error).startswith("Redis URL must") else "it cannot be read"
        raise SettingsError(f"the Redis URL {masked(url)} is wrong: {known}") from None
    return pool


def _made_of(base: type, *mixins: type) -> type:
    return type(base.__name__, (*mixins, _LosesAlike, base), {})
