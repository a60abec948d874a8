"""Redis' time, carried on by the monotonic clock."""

import time

import pytest

from workers.clock import ServerClock


def test_before_it_has_learnt_it_is_the_hosts_time() -> None:
    assert ServerClock().now() == pytest.approx(time.time(), abs=1)


@pytest.mark.parametrize("server_time", [0.0, 1_000_000_000.0, 5_000_000_000.0])
def test_it_takes_over_redis_time_whatever_the_host_believes(server_time: float) -> None:
    clock = ServerClock()
    clock.learn(server_time, time.monotonic())
    assert clock.now() == pytest.approx(server_time, abs=0.5)
    assert clock.now() <= clock.now()


def test_half_of_the_round_trip_has_passed_since_redis_looked() -> None:
    clock = ServerClock()
    clock.learn(1000.0, time.monotonic() - 2)
    assert clock.now() == pytest.approx(1001.0, abs=0.5)
