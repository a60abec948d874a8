"""A whole bus, made of the commands themselves: a server, `amibus simulate` and `amibus worker`."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.cli.commands import Outcome, Running, amibus, connected
from tests.servers import RedisServer

LOST = "lost-1"
"""The simulated Asterisk never answers the action with this ActionID."""


@dataclass
class Station:
    """A running bus, and the settings with which the commands find it."""

    url: str
    ami: str
    settings: dict[str, str]
    worker: Running

    def amibus(self, *arguments: str) -> Outcome:
        """Run a command on it."""
        return amibus(*arguments, settings=self.settings)

    def running(self, *arguments: str) -> Running:
        """Start a command on it."""
        return Running(*arguments, settings=self.settings)


@pytest.fixture(scope="module")
def station(redis_server: RedisServer) -> Iterator[Station]:
    """One for the tests of a module, with the server `pbx1`; they must not empty its Redis (no `redis_url`)."""
    with redis_server.client() as client:
        client.flushall()
    with ExitStack() as stack:
        simulate = ("simulate", "--port", "0", "--ring", "0.05", "--talk", "0.1", "--fault", f"lose:{LOST}")
        asterisk = stack.enter_context(Running(*simulate))
        address = asterisk.line(" on ").partition(" on ")[2].split()[0]
        settings = {
            "AMIBUS_REDIS": redis_server.url,
            "AMIBUS_AMI": address,
            "AMIBUS_AMI_SECRET": "amibus",
            "AMIBUS_SERVER": "pbx1",
            "AMIBUS_JOURNAL_DIR": stack.enter_context(tempfile.TemporaryDirectory(prefix="amibus-journal-")),
        }
        worker = stack.enter_context(Running("worker", settings=settings))
        connected(redis_server.url, "pbx1", worker)
        yield Station(redis_server.url, address, settings, worker)


@pytest.fixture(scope="module")
def simulated() -> Iterator[str]:
    """The address of a simulated Asterisk (user amibus, secret amibus)."""
    with Running("simulate", "--port", "0") as asterisk:
        yield asterisk.line(" on ").partition(" on ")[2].split()[0]


@pytest.fixture
def redis_url_of_nobody(redis_server: RedisServer) -> str:
    """A server's address, for what must not empty it: under another prefix there is nothing."""
    return redis_server.url
