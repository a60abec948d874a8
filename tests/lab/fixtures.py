"""Fixtures with a real Asterisk, for any conftest: `from tests.lab.fixtures import ...` or `pytest_plugins`.

Each series is started once per pytest worker and shared by its tests. A test that stops it, kills it or fills it with
calls should take a `LabAsterisk` of its own instead: that costs less than a second.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.lab.asterisk import LabAsterisk, available
from tests.lab.suites import SUITES

__all__ = ["asterisk", "asterisk16", "asterisk22", "pytest_collection_modifyitems", "require_asterisk"]

FIXTURES = {"asterisk", "asterisk16", "asterisk22"}
# The first test that asks for an Asterisk may have to fetch it, or to wait for the worker that does.
FETCH_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs an Asterisk as `live`, and lets it wait for the fetching."""
    for item in items:
        if not FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.live)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(FETCH_TIMEOUT_S))


def require_asterisk(version: str) -> None:
    """Skips the test, with the reason, where that Asterisk cannot be had; in CI (CI=true) fails it instead."""
    reason = available(version)
    if reason is None:
        return
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"CI must have Asterisk {version}: {reason}", pytrace=False)
    pytest.skip(f"no Asterisk {version}: {reason}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asterisk22() -> AsyncIterator[LabAsterisk]:
    """A running Asterisk 22, shared by the tests of this worker."""
    require_asterisk("22")
    async with LabAsterisk("22") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asterisk16() -> AsyncIterator[LabAsterisk]:
    """A running Asterisk 16, shared by the tests of this worker."""
    require_asterisk("16")
    async with LabAsterisk("16") as running:
        yield running


@pytest.fixture(scope="session", params=list(SUITES), ids=[f"asterisk-{series}" for series in SUITES])
def asterisk(request: pytest.FixtureRequest) -> LabAsterisk:
    """Each of the Asterisks in turn."""
    running: LabAsterisk = request.getfixturevalue(f"asterisk{request.param}")
    return running
