"""Redis and Valkey as `deploy/` sets them up, and the worker on them, beside a simulated Asterisk."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from broker.keys import Keys
from tests.servers import RedisServer, binary

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
PLACEHOLDER: Final = "CHANGE-ME-"
USERS: Final = ("admin", "amibus-worker", "amibus-producer", "amibus-monitor")
KEYS: Final = Keys("pbx1")
DEADLINE_S: Final = 60.0
POLL_S: Final = 0.02


def password(user: str) -> str:
    """The password that the tests put in the place of a user's `CHANGE-ME`."""
    return f"{user.removeprefix('amibus-')}-tested"


class GuardedRedis(RedisServer):
    """A server with `deploy/redis.conf` and `deploy/users.acl`; only passwords, port and directory are ours."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        acl = self.directory / "users.acl"
        text = (DEPLOY / "users.acl").read_text()
        for user in USERS:
            text = text.replace(f">{PLACEHOLDER}{user.removeprefix('amibus-')} ", f">{password(user)} ")
        acl.write_text(text)
        self._command = [
            str(binary(kind)), str(DEPLOY / "redis.conf"), "--port", str(self.port), "--dir", str(self.directory),
            "--aclfile", str(acl), "--daemonize", "no", "--logfile", str(self.directory / "log"),
        ]  # fmt: skip

    def client(self, user: str = "admin") -> "redis.Redis":
        """A blocking client of its own, logged in as one of the users; RESP2, where every reply is an answer."""
        return redis.Redis(port=self.port, username=user, password=password(user), protocol=2, decode_responses=True)

    def url_of(self, user: str) -> str:
        """The address with a user's name and password."""
        return f"redis://{user}:{password(user)}@127.0.0.1:{self.port}/0"


@dataclass(frozen=True)
class Stage:
    """A guarded Redis and the true worker on it, connected to a simulated Asterisk."""

    server: GuardedRedis

    @property
    def monitor(self) -> "redis.Redis":
        """A client with the rights of those who only look."""
        return self.server.client("amibus-monitor")


@contextlib.contextmanager
def running_stage(kind: str) -> Iterator[Stage]:
    """Start all three, and wait until the worker is connected."""
    server = GuardedRedis(kind)
    server.start()
    try:
        with _simulated() as address, _worker(server, address):
            stage = Stage(server)
            with stage.monitor as monitor:
                wait_until("the worker is connected", lambda: monitor.hget(KEYS.worker, "state") == "connected")
            yield stage
    finally:
        server.stop()


@contextlib.contextmanager
def _simulated() -> Iterator[str]:
    command = [sys.executable, "-m", "workers.cli", "simulate", "--port", "0", "--ring", "0.05", "--talk", "0.1"]
    with process(command, stdout=subprocess.PIPE) as simulated:
        assert simulated.stdout is not None
        yield simulated.stdout.readline().partition(" on ")[2].split()[0]


@contextlib.contextmanager
def _worker(server: GuardedRedis, address: str) -> Iterator[None]:
    settings = {
        "AMIBUS_REDIS": server.url_of("amibus-worker"),
        "AMIBUS_SERVER": KEYS.server,
        "AMIBUS_AMI": address,
        "AMIBUS_AMI_SECRET": "amibus",
        "AMIBUS_JOURNAL_DIR": str(server.directory / "journal"),
        "AMIBUS_LOG_LEVEL": "warning",
    }
    with process([sys.executable, "-m", "workers.cli", "worker"], settings):
        yield


@contextlib.contextmanager
def process(
    command: list[str], settings: dict[str, str] | None = None, **options: Any
) -> Iterator["subprocess.Popen[str]"]:
    """A process for as long as the `with` lasts; it sees no settings of the machine's own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AMIBUS_", "REDIS"))}
    options = {"cwd": ROOT, "text": True, "errors": "backslashreplace", **options}
    with subprocess.Popen(command, env={**environment, **(settings or {})}, **options) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()


def wait_until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition. Raises `TimeoutError`."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        time.sleep(POLL_S)


def need(condition: Any, reason: str) -> None:
    """Skip with a reason where a tool is missing; under CI that is a failure."""
    import pytest

    if not condition:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
