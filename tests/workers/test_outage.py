"""What is said of a Redis that does not do what is asked, and how often."""

import asyncio
from typing import Any

import pytest
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from workers import outage as module
from workers.outage import AWAY, FULL, WRONG_TYPE, Outage, Waiter, outage

GONE = RedisConnectionError("gone")
SILENT = RedisTimeoutError("no answer")
FIRST, SECOND = ResponseError("WRONGTYPE a"), ResponseError("WRONGTYPE b")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def said(logs: list[Any]) -> list[tuple[str, str]]:
    return [(line["log_level"], line["event"]) for line in logs]


@pytest.fixture
async def a() -> Waiter:
    return Waiter("x", asyncio.get_running_loop().create_future())


@pytest.fixture
async def b() -> Waiter:
    return Waiter("y", asyncio.get_running_loop().create_future())


def test_many_wait_and_it_is_said_once(a: Waiter, b: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for waiter in (a, b):
            it.failed(waiter, SILENT)
            it.failed(waiter, RedisConnectionError("otherwise"))
        it.over(a)
        it.failed(b, SILENT)
        it.over(b)
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")]
    assert logs[1]["failures"] == 5


def test_a_connection_that_was_cut_is_an_outage_only_if_the_next_try_fails_too(a: Waiter, b: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for waiter in (a, b):
            it.failed(waiter, GONE)
        for waiter in (a, b):
            it.over(waiter)
        assert said(logs) == []
        for _ in range(2):
            it.failed(a, GONE)
        it.over(a)
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")]
    assert logs[1]["failures"] == 2


def test_the_next_outage_is_said_again_but_not_within_a_second(clock: Clock, a: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            it.failed(a, SILENT)
            it.over(a)
            clock.now += 0.5
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")] * 3


def test_each_kind_is_said_but_no_two_lines_in_a_second(clock: Clock, a: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for error in (FIRST, SECOND, OutOfMemoryError("full")):
            it.failed(a, error)
        clock.now += 1
        for error in (FIRST, SECOND, OutOfMemoryError("full")):
            it.failed(a, error)
        clock.now += 1
        for error in (FIRST, SECOND, OutOfMemoryError("full")):
            it.failed(a, error)
    assert said(logs) == [("error", WRONG_TYPE), ("error", WRONG_TYPE), ("warning", FULL)]
    assert [line["error"] for line in logs] == ["WRONGTYPE a", "WRONGTYPE b", "full"]


def test_what_somebody_must_mend_is_said_again(clock: Clock, a: Waiter, b: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for _ in range(61):
            it.failed(a, FIRST)
            it.failed(b, SILENT)
            clock.now += 1
    assert said(logs) == [("error", WRONG_TYPE), ("warning", AWAY), ("error", WRONG_TYPE), ("error", WRONG_TYPE)]


def test_who_gives_up_leaves_the_end_to_whoever_succeeds_next(clock: Clock, a: Waiter, b: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        it.failed(a, SILENT)
        it.forget(a)
        it.forget(a)
        clock.now += 1
        it.failed(b, SILENT)
        assert said(logs) == [("warning", AWAY)]
        it.over(b)
        it.over(a)
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")]


def test_whose_task_is_done_waits_no_more(a: Waiter, b: Waiter) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        it.failed(a, SILENT)
        it.over(b)
        assert said(logs) == [("warning", AWAY)]
        a.task.cancel()
        it.over(b)
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")]


def test_who_tries_again_seldom_does_not_hold_up_the_end_where_others_have_reached_redis(a: Waiter) -> None:
    it = Outage()
    patient = Waiter("z", a.task, is_patient=True)
    with structlog.testing.capture_logs() as logs:
        for error in (GONE, GONE):
            it.failed(patient, error)
        it.over(a)
        assert said(logs) == [("warning", AWAY), ("info", "redis is back")]


def test_what_redis_refuses_to_one_is_over_when_it_takes_it(a: Waiter) -> None:
    it = Outage()
    patient = Waiter("z", a.task, is_patient=True)
    with structlog.testing.capture_logs() as logs:
        it.failed(patient, ResponseError("NOREPLICAS x"))
        it.over(a)
        assert said(logs) == [("warning", AWAY)]
        it.over(patient)
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")]


def test_what_is_done_to_us_again_and_again_is_news_once_a_second(clock: Clock) -> None:
    it = Outage()
    seen = []
    for _ in range(5):
        seen.append((it.is_news("a"), it.is_news("b")))
        clock.now += 0.5
    assert seen == [(True, True), (False, False)] * 2 + [(True, True)]


async def test_there_is_one_for_each_event_loop() -> None:
    assert outage() is outage()
