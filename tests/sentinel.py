"""A primary, a replica and three sentinels on the loopback: what fails over."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.ports import free_port
from tests.servers import KINDS, START_DEADLINE_S, RedisServer, binary, need

SERVICE = "amibus"
DOWN_AFTER_MS = 2000
"""On a busy machine sentinels with less call a primary down that they have just elected, and elect again. And they
choose no replica whose link was down for ten times as long before: it has that long to lag behind."""

FAILOVER_TIMEOUT_MS = 2000
QUORUM = 2
FAIL_OVER_DEADLINE_S = 120.0
"""Sentinels whose clock was held up do nothing for half a minute."""


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = START_DEADLINE_S) -> Any:
    """Wait until a condition that nobody announces is true; a server that does not answer yet has not met it."""
    end = time.monotonic() + deadline_s
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if value := condition():
                return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.02)


class SentinelServer:
    """One sentinel process."""

    def __init__(self, kind: str, primary_port: int, password: str = "", sentinel_password: str = "") -> None:
        program = binary(kind)
        assert program is not None
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._password = sentinel_password
        self._directory = Path(tempfile.mkdtemp(prefix=f"amibus-{kind}-sentinel-"))
        # It writes to its file what it learns, so each has its own.
        configuration = self._directory / "sentinel.conf"
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f"dir {self._directory}", f"logfile {self._directory / 'log'}",
            "daemonize no",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} {QUORUM}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
        ]  # fmt: skip
        if password:
            lines.append(f"sentinel auth-pass {SERVICE} {password}")
        if sentinel_password:
            lines += [f"requirepass {sentinel_password}", f"sentinel sentinel-pass {sentinel_password}"]
        configuration.write_text("\n".join([*lines, ""]))
        self._command = [program, str(configuration), "--sentinel"]

    def start(self) -> None:
        """Start it, without waiting."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def client(self) -> "redis.Redis":
        """A blocking client of its own."""
        return redis.Redis(port=self.port, password=self._password or None, decode_responses=True, protocol=2)

    def state(self) -> dict[str, Any]:
        """What it knows of the service."""
        with self.client() as client:
            masters: Any = client.sentinel_masters()
            found: dict[str, Any] = masters[SERVICE]
            return found

    def command(self, *words: str | int) -> Any:
        """Run a command on it."""
        with self.client() as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        """End it and remove its directory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None
        shutil.rmtree(self._directory, ignore_errors=True)


class Sentinels:
    """A primary with one replica, watched by three sentinels. `primary` and `replica` follow each fail-over."""

    def __init__(self, kind: str, password: str = "", sentinel_password: str = "", *more: str) -> None:
        options = ["--repl-diskless-sync-delay", "0", "--repl-timeout", "5", *more]
        self.kind = kind
        self.password = password
        self.sentinel_password = sentinel_password
        self.primary = RedisServer(kind, *options, password=password)
        self.replica = RedisServer(kind, *options, password=password)
        self.sentinels = [
            SentinelServer(kind, self.primary.port, password, sentinel_password) for _ in range(QUORUM + 1)
        ]

    @property
    def hosts(self) -> str:
        """The sentinels' addresses, as a URL has them."""
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        """The service, with its passwords."""
        login = f":{self.password}@" if self.password else ""
        query = f"?sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        return f"redis+sentinel://{login}{self.hosts}/{SERVICE}/0{query}"

    def start(self) -> None:
        """Start, and return when the replica is in step and the sentinels know it and one another."""
        for server in (self.primary, self.replica):
            server.start()
        with self.replica.client() as replica:  # by no option: it may be started again when it is the primary
            replica.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)
        wait_for(self.is_in_step, "the replica in step", FAIL_OVER_DEADLINE_S)
        for sentinel in self.sentinels:
            sentinel.start()
        wait_for(self._know_each_other, "sentinels that know each other", FAIL_OVER_DEADLINE_S)

    def stop(self) -> None:
        """End everything."""
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in (self.replica, self.primary):
            with contextlib.suppress(ProcessLookupError, AssertionError):
                server.send(signal.SIGCONT)
            server.stop()

    def catch_up(self) -> None:
        """Return when the replica has all that the primary has accepted until now."""
        offset = self._replication(self.primary)["master_repl_offset"]
        wait_for(lambda: self._replication(self.replica)["slave_repl_offset"] >= offset, "the replica to catch up")

    def lag(self) -> None:
        """From now on nothing reaches the replica, while the primary goes on accepting: what is written is lost by a
        fail-over."""
        # Cut off rather than stopped: a stopped one would be down to the sentinels, who would not choose it.
        with self.primary.client() as primary:
            primary.execute_command("ACL", "SETUSER", "default", "-psync", "-replconf", "-sync")
            primary.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self, *, kill: bool | None = True, deadline_s: float = FAIL_OVER_DEADLINE_S) -> None:
        """Make the replica the primary: by the death of the primary, or (`kill` false) by an operator's command. None:
        it is dead already.

        Returns when all sentinels name the new one and it accepts writes.
        """
        if kill:
            self.primary.kill()
        wait_for(self._has_failed_over if kill is not False else self._asked, "the fail-over", deadline_s)
        self.primary, self.replica = self.replica, self.primary

    def restore(self) -> None:
        """Start the old primary again, as a replica of the new one."""
        self.replica.start()
        self.demote()
        wait_for(self.is_in_step, "the old primary as a replica", FAIL_OVER_DEADLINE_S)

    def demote(self) -> None:
        """Make the old primary a replica. The sentinels would, some eight to twenty seconds later, in the same way."""
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind)

    def _replication(self, server: RedisServer) -> dict[str, Any]:
        with server.client() as client:
            found: Any = client.info("replication")
        return dict(found)

    def is_in_step(self) -> bool:
        """Whether the replica follows the primary, and has had all of it once."""
        found = self._replication(self.replica)
        return bool(found["role"] == "slave" and found["master_link_status"] == "up")

    def _know_each_other(self) -> bool:
        states = [sentinel.state() for sentinel in self.sentinels]
        return all(
            state["num-other-sentinels"] == QUORUM and state["num-slaves"] == 1 and state["is_master"]
            for state in states
        ) and all(self._sees_a_good_replica(sentinel) for sentinel in self.sentinels)

    def _sees_a_good_replica(self, sentinel: SentinelServer) -> bool:
        with sentinel.client() as client:
            replicas: Any = client.sentinel_slaves(SERVICE)
        return [replica["master-link-status"] for replica in replicas] == ["ok"]

    def _asked(self) -> bool:
        """The same as an operator does it: who is asked while he knows no good replica gives it up, for good."""
        sentinel = self.sentinels[0]
        state = sentinel.state()
        if state["port"] == self.primary.port and "failover_in_progress" not in state["flags"]:
            sentinel.command("SENTINEL", "FAILOVER", SERVICE)
        return self._has_failed_over()

    def _has_failed_over(self) -> bool:
        if not all(sentinel.state()["port"] == self.replica.port for sentinel in self.sentinels):
            return False
        with self.replica.client() as client:
            role: Any = client.execute_command("ROLE")
        return bool(role[0] == "master")


@pytest.fixture(params=KINDS)
def sentinels(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    """Servers of each kind that fail over, for one test alone."""
    need(request.param)
    service = Sentinels(request.param)
    try:
        service.start()
        yield service
    finally:
        service.stop()
