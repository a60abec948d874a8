"""Fixtures of all tests: real servers, each started once per run; and a journal for each test alone."""

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

from tests.client_side import admin, bus, no_looking, pbx, worker
from tests.sentinel import sentinels
from tests.servers import own_redis, redis_server, redis_url

__all__ = [
    "admin", "bus", "journal_of_its_own", "no_looking", "own_redis", "pbx", "redis_server", "redis_url", "sentinels",
    "worker",
]  # fmt: skip

# How long an example takes, or to make one up, tells of the machine, not of the code.
settings.register_profile("amibus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("amibus")

# For workers that a fixture starts for several tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="amibus-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def journal_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests give their actions the same ActionIDs, and each has a Redis that it finds empty: to a journal that had seen
    another test's, that would be a Redis that has gone back in time."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
