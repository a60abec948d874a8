"""What is said of a Redis that does not do what is asked, and how often."""

from typing import Any

import pytest
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from workers import outage as module
from workers.outage import AWAY, FULL, WRONG_TYPE, Outage, outage

GONE = RedisConnectionError("gone")
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


def test_many_wait_and_it_is_said_once() -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for waiter in ("a", "b"):
            it.failed("x", GONE, waiter)
            it.failed("x", RedisConnectionError("otherwise"), waiter)
        it.over("a", "x")
        it.failed("x", GONE, "b")
        it.over("b", "x")
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")]
    assert logs[1]["failures"] == 5


def test_the_next_outage_is_said_again_but_not_within_a_second(clock: Clock) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            it.failed("x", GONE, "a")
            it.over("a", "x")
            clock.now += 0.5
    assert said(logs) == [("warning", AWAY), ("info", "redis is back")] * 3


def test_each_kind_is_said_but_no_two_lines_in_a_second(clock: Clock) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for error in (FIRST, SECOND, OutOfMemoryError("full")):
            it.failed("x", error, "a")
        clock.now += 1
        for error in (FIRST, SECOND, OutOfMemoryError("full")):
            it.failed("x", error, "a")
        clock.now += 1
        for error in (FIRST, SECOND, OutOfMemoryError("full")):
            it.failed("x", error, "a")
    assert said(logs) == [("error", WRONG_TYPE), ("error", WRONG_TYPE), ("warning", FULL)]
    assert [line["error"] for line in logs] == ["WRONGTYPE a", "WRONGTYPE b", "full"]


def test_what_somebody_must_mend_is_said_again(clock: Clock) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        for _ in range(61):
            it.failed("x", FIRST, "a")
            it.failed("x", GONE, "b")
            clock.now += 1
    assert said(logs) == [("error", WRONG_TYPE), ("warning", AWAY), ("error", WRONG_TYPE), ("error", WRONG_TYPE)]


def test_who_gives_up_says_nothing(clock: Clock) -> None:
    it = Outage()
    with structlog.testing.capture_logs() as logs:
        it.failed("x", GONE, "a")
        it.forget("a")
        it.forget("a")
        clock.now += 1
        it.failed("x", GONE, "b")
    assert said(logs) == [("warning", AWAY)] * 2


def test_what_is_done_to_us_again_and_again_is_news_once_a_second(clock: Clock) -> None:
    it = Outage()
    seen = []
    for _ in range(5):
        seen.append((it.is_news("a"), it.is_news("b")))
        clock.now += 0.5
    assert seen == [(True, True), (False, False)] * 2 + [(True, True)]


async def test_there_is_one_for_each_event_loop() -> None:
    assert outage() is outage()
