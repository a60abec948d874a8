"""Whether a tenure can go on from the one before."""

from typing import Any

import pytest

from workers.legacy import Legacy


class Standing:
    """A lease, or a tenure, as far as it matters here."""

    def __init__(self, has_gone_back: bool = True) -> None:
        self.has_gone_back = has_gone_back
        self.is_closed = False

    def close(self) -> None:
        assert not self.is_closed, "twice"
        self.is_closed = True


@pytest.fixture
def tenure() -> Any:
    return Standing()


@pytest.fixture
def legacy(tenure: Any) -> Legacy:
    legacy = Legacy()
    legacy.leave(tenure)
    return legacy


FORGOTTEN: Any = Standing(has_gone_back=True)
FOLLOWED: Any = Standing(has_gone_back=False)


def test_it_is_taken_once(legacy: Legacy, tenure: Any) -> None:
    assert [legacy.take(FORGOTTEN), legacy.take(FORGOTTEN)] == [tenure, None]
    legacy.drop()
    assert not tenure.is_closed


def test_it_is_worth_nothing_where_another_has_served_since(legacy: Legacy, tenure: Any) -> None:
    assert legacy.take(FOLLOWED) is None
    assert tenure.is_closed


def test_it_is_worth_nothing_where_another_serves(legacy: Legacy, tenure: Any) -> None:
    legacy.drop()
    assert tenure.is_closed
    assert legacy.take(FORGOTTEN) is None
