"""GCRA against a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.rates import Rate, Rates
from workers.schedule import CALLS, CHANGES, READS


def spend(rate: Rate, start: float, seconds: float) -> list[float]:
    """Take as often as it lets, and no oftener: the times."""
    now, taken = start, []
    while now < start + seconds:
        wait_s = rate.wait_s(now)
        if wait_s > 0:
            now += max(wait_s, 1e-6)
        else:
            rate.take(now)
            taken.append(now)
    return taken


@given(st.floats(0.2, 50), st.floats(0, 1e6))
def test_no_window_holds_more_than_the_rate_and_one_burst(per_second: float, start: float) -> None:
    taken = spend(Rate(per_second), start, 5)
    burst = max(1.0, per_second)
    for first, began in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + per_second * (taken[last] - began) + 1e-3


@pytest.mark.parametrize(("per_second", "seconds", "expected"), [(20.0, 10.0, 220), (1.0, 10.0, 10), (0.5, 20.0, 10)])
def test_the_rate_is_reached(per_second: float, seconds: float, expected: int) -> None:
    assert len(spend(Rate(per_second), 1000.0, seconds)) == pytest.approx(expected, abs=1)


def test_an_idle_time_is_not_saved_up() -> None:
    rate = Rate(10)
    rate.take(0)
    burst = 0
    while rate.wait_s(1000.0) < 1e-6:
        rate.take(1000.0)
        burst += 1
    assert burst == 10


def test_nothing_is_unlimited_but_zero() -> None:
    rate = Rate(0)
    for _ in range(1000):
        rate.take(5.0)
    assert rate.wait_s(5.0) == 0


def test_the_overall_rate_counts_all_classes_and_a_class_only_its_own() -> None:
    rates = Rates(0, {CALLS: 1, CHANGES: 0, READS: 0})
    rates.take(CALLS, 0)
    assert rates.wait_s(CALLS, 0) == pytest.approx(1)
    assert rates.wait_s(CHANGES, 0) == rates.wait_s(READS, 0) == 0
    overall = Rates(1, {CALLS: 0, CHANGES: 0, READS: 0})
    overall.take(READS, 0)
    assert overall.wait_s(CALLS, 0) == pytest.approx(1)
