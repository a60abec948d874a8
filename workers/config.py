"""One frozen settings object, with the same names as flags (`--ami-username`), in the environment
(`AMIBUS_AMI_USERNAME`) and in TOML (`ami_username`)."""

import math
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from broker.errors import SettingsError
from broker.keys import DEFAULT_PREFIX, Keys
from broker.redis_url import SentinelUrl, is_sentinel_url

ENVIRONMENT_PREFIX: Final = "AMIBUS_"
HIDDEN: Final = "(hidden)"


def _setting(default: Any, help: str, *, secret: bool = False, flag: bool = True) -> Any:  # noqa: A002
    """A settings field: its default, one sentence of help, and whether its value may be shown and given as a flag."""
    metadata = {"help": help, "secret": secret, "flag": flag}
    if isinstance(default, tuple):
        return field(default=default, metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a worker. Times in seconds, rates in actions per second (0: unlimited)."""

    redis: str = _setting(
        "redis://127.0.0.1:6379/0",
        "Redis or Valkey as redis://[user:password@]host:port/db (rediss:// for TLS), or its sentinels as "
        "redis+sentinel://[user:password@]host:port,host:port/SERVICE/db[?sentinel_password=..].",
        secret=True,
    )
    server: str = _setting("", "Name of the Asterisk server on the bus, e.g. pbx1.")
    prefix: str = _setting(DEFAULT_PREFIX, "Prefix of all keys on Redis.")
    ami: str = _setting("127.0.0.1:5038", "Asterisk's manager interface as host:port.")
    ami_username: str = _setting("amibus", "Manager user that sends the actions.")
    ami_secret: str = _setting(
        "",
        "Its secret (environment or file only: an argument list is readable by every user).",
        secret=True,
        flag=False,
    )
    ami_secret_file: str = _setting("", "File that holds the secret.")
    ami_events_username: str = _setting("", "Manager user that reads the events (default: the same).")
    ami_events_secret: str = _setting(
        "", "Its secret (environment or file only; default: the same).", secret=True, flag=False
    )
    ami_events_secret_file: str = _setting("", "File that holds the events user's secret.")
    allow: tuple[str, ...] = _setting(
        (), "Names of dangerous things that are allowed, e.g. Command,GetConfig,Originate:System."
    )
    rate: float = _setting(0.0, "Actions per second at most, all classes together.")
    rate_calls: float = _setting(20.0, "Call-making actions (Originate) per second at most.")
    rate_changes: float = _setting(0.0, "Other state-changing actions per second at most.")
    rate_reads: float = _setting(0.0, "Read-only actions per second at most.")
    read_ahead: int = _setting(5000, "Entries of a lane held in memory at most.")
    record_s: float = _setting(3600.0, "How long the record of a settled action is kept (of a call: from its end).")
    record_read_s: float = _setting(60.0, "How long the record of a settled read-only action is kept.")
    events_length: int = _setting(200_000, "Length of the events stream, about.")
    results_length: int = _setting(10_000, "Length of the results stream, about.")
    dead_length: int = _setting(1_000, "Length of the stream of refused entries, about.")
    event_channels: bool = _setting(
        True, "Publish events on a channel by name (a Redis Cluster may prefer the stream alone)."
    )
    event_buffer_mb: float = _setting(
        64.0, "Memory for events that wait for Redis; beyond it they are dropped and BusGap says how many."
    )
    event_spool_dir: str = _setting(
        "", "Directory for events that find no room in that memory; without one they are dropped."
    )
    event_spool_mb: float = _setting(1024.0, "Disk space for them in MiB; what finds no room there either is dropped.")
    sensitive_events: tuple[str, ...] = _setting(
        (), "Events with secrets in them that are published all the same, by name."
    )
    lease_s: float = _setting(5.0, "Life of the lease: how soon another worker may take over from a dead one.")
    journal_dir: str = _setting(
        "",
        "Directory of the journal, on a local disk of Asterisk's host (default: $STATE_DIRECTORY, "
        "$XDG_STATE_HOME/amibus or ~/.local/state/amibus).",
    )
    drain_s: float = _setting(30.0, "How long a stopping worker waits for answers to what it has sent.")
    name: str = _setting("", "This worker's name on the bus (default: host-pid).")
    log_format: str = _setting("auto", "auto (console on a terminal, else json), console or json.")
    log_level: str = _setting("info", "debug, info, warning or error.")

    def __post_init__(self) -> None:
        Keys(self.server or "unnamed", self.prefix)
        _check_url(self.redis)
        self._check_address()
        self._check_texts()
        self._check_numbers()
        _one_of("log_format", self.log_format, ("auto", "console", "json"))
        _one_of("log_level", self.log_level, ("debug", "info", "warning", "error"))
        if not self.name:
            object.__setattr__(self, "name", f"{socket.gethostname()}-{os.getpid()}")

    def _check_texts(self) -> None:
        for name in ("ami_username", "ami_secret", "ami_events_username", "ami_events_secret", "name"):
            if any(character in "\r\n\0" or "\ud800" <= character <= "\udfff" for character in getattr(self, name)):
                raise SettingsError(f"{name} holds a line end, a NUL or what is not UTF-8")

    def _check_numbers(self) -> None:
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), float) and not math.isfinite(value):
                raise SettingsError(f"{each.name} is {value:g}: it must be a finite number")
        for name in ("rate", "rate_calls", "rate_changes", "rate_reads"):
            if getattr(self, name) < 0:
                raise SettingsError(
                    f"{name} is {getattr(self, name):g}: a rate is 0 (unlimited) or more actions per second"
                )
        for name in (
            "read_ahead",
            "record_s",
            "record_read_s",
            "events_length",
            "results_length",
            "dead_length",
            "event_buffer_mb",
            "event_spool_mb",
        ):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} is {getattr(self, name):g}: it must be more than 0")
        if self.record_s < 3600:
            # The contract promises that a retry is safe for 30 minutes after the result, and the retry may itself be
            # queued for 30 minutes: the record is what makes it so.
            raise SettingsError(f"record_s is {self.record_s:g}: under 3600 a retry could place a call twice")
        if self.drain_s < 0:
            raise SettingsError(f"drain_s is {self.drain_s:g}: it must be 0 or more")
        if self.lease_s < 1:
            raise SettingsError(f"lease_s is {self.lease_s:g}: under 1 second a busy machine loses it")

    def _check_address(self) -> None:
        host, _, port = self.ami.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise SettingsError(f"ami is {self.ami!r}: give host:port, e.g. 127.0.0.1:5038")

    @property
    def ami_host(self) -> str:
        """The host of `ami`."""
        return self.ami.rpartition(":")[0].strip("[]")

    @property
    def ami_port(self) -> int:
        """The port of `ami`."""
        return int(self.ami.rpartition(":")[2])

    @property
    def keys(self) -> Keys:
        """The names on Redis."""
        return Keys(self.server, self.prefix)

    def shown(self) -> dict[str, str]:
        """All settings as text for people, secrets hidden."""
        return {each.name: shown_value(each.name, getattr(self, each.name)) for each in fields(self)}


def shown_value(name: str, value: Any) -> str:
    """One setting as text, with its secrets hidden."""
    if name == "redis":
        return shown_url(value)
    if name in ("ami_secret", "ami_events_secret"):
        return HIDDEN if value else ""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def shown_url(url: str) -> str:
    """A Redis URL without its password."""
    # By pattern and up to the last @: a password with # or / in it is no part of its own to a URL parser.
    shown = re.sub(r"//([^:/@]*):.*@", rf"//\1:{HIDDEN}@", url, flags=re.DOTALL)
    return re.sub(r"(?i)([?&][^=&]*password=)[^&#]*", rf"\1{HIDDEN}", shown)


def load_settings(
    flags: Mapping[str, Any] | None = None, *, environment: Mapping[str, str] | None = None, file: str | None = None
) -> Settings:
    """Put the settings together: a flag wins over the environment, that over the file, that over the default.

    Raises `SettingsError` with the name of the setting that is wrong and where it came from.
    """
    environment = os.environ if environment is None else environment
    file = file or environment.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    values: dict[str, Any] = {}
    if file:
        values |= {name: _typed(name, value, file) for name, value in _read_file(file).items()}
    for each in fields(Settings):
        variable = ENVIRONMENT_PREFIX + each.name.upper()
        if variable in environment:
            values[each.name] = _typed(each.name, environment[variable], variable)
    _refuse_password_flag((flags or {}).get("redis"))
    values |= {
        name: _typed(name, value, f"--{name.replace('_', '-')}")
        for name, value in (flags or {}).items()
        if value is not None
    }
    _read_secret(values, "ami_secret")
    _read_secret(values, "ami_events_secret")
    values["ami_events_username"] = values.get("ami_events_username") or values.get(
        "ami_username", Settings.ami_username
    )
    values["ami_events_secret"] = values.get("ami_events_secret") or values.get("ami_secret", "")
    return Settings(**values)


def _refuse_password_flag(url: str | None) -> None:
    if url and (":" in url.partition("://")[2].rpartition("@")[0] or "password=" in url.lower()):
        raise SettingsError(
            "--redis holds a password, and every user of the machine can read an argument list: "
            "give AMIBUS_REDIS in the environment, or redis in the settings file"
        )


def _read_file(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from None
    known = {each.name for each in fields(Settings)}
    for name in table:
        if name not in known:
            raise SettingsError(f"settings file {path}: {name} is not a setting")
    return table


def _read_secret(values: dict[str, Any], name: str) -> None:
    path = values.get(f"{name}_file")
    if not path:
        return
    if values.get(name):
        raise SettingsError(f"both {name} and {name}_file are given: give one")
    try:
        values[name] = Path(path).read_text().rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{name}_file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name}_file {path}: it is not text") from None


def _typed(name: str, value: Any, origin: str) -> Any:
    """A value from anywhere, as the type that its setting has."""
    default = getattr(Settings, name)
    try:
        if isinstance(default, bool):
            return value if isinstance(value, bool) else _truth(str(value))
        if isinstance(default, tuple):
            parts = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
            return tuple(str(part) for part in parts if part)
        if isinstance(default, (int, float)):
            return type(default)(value)
    except (TypeError, ValueError):
        raise SettingsError(f"{origin}: {value!r} is not a {type(default).__name__}") from None
    return str(value)


def _truth(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def _check_url(url: str) -> None:
    if is_sentinel_url(url):
        SentinelUrl.parse(url)
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"redis is {shown_url(url)!r}: give redis://[user:password@]host:port/db")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}: one of {', '.join(allowed)}")
