"""The typed client against a stand-in for the worker."""

import pytest

from tests.lab.suites import SUITES


@pytest.fixture(params=list(SUITES), ids=[f"asterisk-{series}" for series in SUITES])
def series(request: pytest.FixtureRequest) -> str:
    """Each Asterisk whose answers were captured."""
    chosen: str = request.param
    return chosen
