"""How Redis is named: by the URL of a server, or of the sentinels that know which server is the primary."""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from broker.errors import SettingsError

SENTINEL_PORT: Final = 26379
"""Where a sentinel listens that is named without a port."""

UNREADABLE: Final = "(unreadable)"

_SENTINEL_URL: Final = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^@/?#]*)"
    r"(?:/(?P<service>[^@/?#]*))?(?:/(?P<db>[^@/?#]*))?(?:\?(?P<query>[^#]*))?"
)
# An IPv6 address stands in brackets.
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)(?::([0-9]{1,5}))?")
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]+")
"""The names that Sentinel itself accepts in `sentinel monitor`."""


@dataclass(frozen=True)
class SentinelUrl:
    """`redis+sentinel://[user:password@]host:port[,host:port...]/SERVICE[/DB][?sentinel_password=...]`, taken apart."""

    masked: str
    addresses: tuple[tuple[str, int], ...]
    service: str
    username: str | None = field(repr=False)
    """The sentinels' own login, which is not that of the servers that they watch."""
    password: str | None = field(repr=False)
    server_url: str = field(repr=False)
    """The URL of any server of the service, as redis-py reads it; its host stands for the primary's."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take it apart. Raises `SettingsError`, without a password in its text."""
        shown = masked(url)
        parts = _SENTINEL_URL.fullmatch(url)
        if parts is None:
            raise _wrong(
                shown, "give redis+sentinel://host:port,host:port/SERVICE (in a password %2F %3F %23 for / ? #)"
            )
        service = unquote(parts["service"] or "")
        if not _SERVICE.fullmatch(service):
            raise _wrong(shown, "the name of the service (of sentinel monitor in sentinel.conf) must follow the hosts")
        if parts["db"] and not re.fullmatch("[0-9]{1,5}", parts["db"]):
            raise _wrong(shown, "what follows the service is the number of a database")
        options = dict(parse_qsl(parts["query"] or ""))
        username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
        login = "" if parts["login"] is None else f"{parts['login']}@"
        query = f"?{urlencode(options)}" if options else ""
        server_url = f"{parts['scheme']}://{login}primary/{parts['db'] or 0}{query}"
        return cls(shown, _addresses(parts["hosts"], shown), service, username, password, server_url)

    @property
    def is_tls(self) -> bool:
        """Whether servers and sentinels are spoken to by TLS."""
        return self.server_url.startswith("rediss:")


def is_sentinel_url(url: str) -> bool:
    """Whether this URL names sentinels."""
    return url.partition("://")[0] in ("redis+sentinel", "rediss+sentinel")


def masked(url: str) -> str:
    """The URL without its password and its options (which may hold one too)."""
    if is_sentinel_url(url):
        return _masked_sentinel_url(url)
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return UNREADABLE
    if "@" in parts.path and parts.scheme != "unix":
        return UNREADABLE  # a password with a / in it: what looks like its user and host is a part of it
    return f"{parts.scheme}://{_masked_login(parts.username, parts.password)}{parts.hostname or ''}{port}{parts.path}"


def _masked_sentinel_url(url: str) -> str:
    parts = _SENTINEL_URL.fullmatch(url)
    if parts is None:
        return UNREADABLE
    username, colon, password = (parts["login"] or "").partition(":")
    path = "".join(f"/{parts[name]}" for name in ("service", "db") if parts[name] is not None)
    return f"{parts['scheme']}+sentinel://{_masked_login(username, password if colon else None)}{parts['hosts']}{path}"


def _masked_login(username: str | None, password: str | None) -> str:
    if password is not None:
        return f"{username or ''}:***@"
    return f"{username}@" if username else ""


def _addresses(hosts: str, shown: str) -> tuple[tuple[str, int], ...]:
    addresses = []
    for text in hosts.split(","):
        parts = _HOST.fullmatch(text)
        port = int(parts[2] or SENTINEL_PORT) if parts is not None else 0
        if parts is None or not 0 < port < 65536:
            raise _wrong(shown, f"{text!r} is no host:port of a sentinel")
        addresses.append((parts[1].strip("[]"), port))
    return tuple(addresses)


def _wrong(shown: str, why: str) -> SettingsError:
    return SettingsError(f"the Redis URL {shown} is wrong: {why}")
