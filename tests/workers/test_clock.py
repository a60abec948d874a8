"""Redis' time, carried on by the monotonic clock."""

import time

import pytest
from structlog.testing import capture_logs

from workers.clock import ServerClock


def test_before_it_has_learnt_it_is_the_hosts_time() -> None:
    assert ServerClock().now() == pytest.approx(time.time(), abs=1)


@pytest.mark.parametrize("server_time", [0.0, 1_000_000_000.0, 5_000_000_000.0])
def test_it_takes_over_redis_time_whatever_the_host_believes(server_time: float) -> None:
    clock = ServerClock()
    clock.learn(server_time, time.monotonic())
    assert clock.now() == pytest.approx(server_time, abs=0.9)
    assert clock.now() <= clock.now()


def test_half_of_the_round_trip_has_passed_since_redis_looked() -> None:
    clock = ServerClock()
    clock.learn(1000.0, time.monotonic() - 2)
    assert clock.now() == pytest.approx(1001.0, abs=0.9)


@pytest.mark.parametrize("step_s", [3600.0, 2.0, -2.0, -3600.0])
def test_a_step_is_taken_over_and_said_once(step_s: float) -> None:
    clock = ServerClock()
    clock.learn(1000.0, time.monotonic())
    with capture_logs() as logs:
        for _ in range(3):
            clock.learn(1000.0 + step_s, time.monotonic())
    assert clock.now() == pytest.approx(1000.0 + step_s, abs=0.9)
    assert clock.stepped_s == pytest.approx(step_s, abs=0.9)
    assert [line["log_level"] for line in logs] == ["warning"]


def test_what_it_learns_first_is_no_step_and_neither_is_a_drift() -> None:
    clock = ServerClock()
    with capture_logs() as logs:
        for server_time in (1000.0, 1000.3, 999.8):
            clock.learn(server_time, time.monotonic())
    assert not logs
    assert clock.stepped_s == 0


def test_an_answer_that_was_held_up_is_no_step_unless_that_does_not_explain_it() -> None:
    clock = ServerClock()
    clock.learn(1000.0, time.monotonic())
    clock.learn(1000.0, time.monotonic() - 8)
    assert clock.now() == pytest.approx(1000.0, abs=0.9)
    assert clock.stepped_s == 0
    clock.learn(1020.0, time.monotonic() - 8)
    assert clock.now() == pytest.approx(1024.0, abs=0.9)
    assert clock.stepped_s == pytest.approx(24.0, abs=0.9)
