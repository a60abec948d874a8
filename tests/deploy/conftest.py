"""Fixtures: a guarded server of each kind, with and without a worker on it."""

from collections.abc import Iterator

import pytest

from tests.deploy.guarded import GuardedRedis, Stage, running_stage
from tests.servers import KINDS, need


@pytest.fixture(scope="session", params=KINDS)
def guarded(request: pytest.FixtureRequest) -> Iterator[GuardedRedis]:
    """A server with the configuration and the users of `deploy/`, and nothing else on it."""
    need(request.param)
    server = GuardedRedis(request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session", params=KINDS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The same with a worker and a simulated Asterisk."""
    need(request.param)
    with running_stage(request.param) as stage:
        yield stage
