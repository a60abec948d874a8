"""Turns: order, windows, rates, deadlines, and that nothing ever waits for a grant that nobody will give."""

import asyncio
import time

import pytest

from broker.keys import ACTIONS, URGENT
from workers.rates import Rates
from workers.schedule import CALLS, CHANGES, READS, WINDOWS, Schedule, Turn, session_of

NEVER = 1e12


def make(*, opened: bool = True, calls: float = 0.0) -> Schedule:
    schedule = Schedule(Rates(0, {CALLS: calls, CHANGES: 0.0, READS: 0.0}), time.time)
    if opened:
        schedule.open()
    return schedule


def ask(
    schedule: Schedule, session: str = "write", cost: str = CHANGES, deadline: float = NEVER
) -> asyncio.Task[Turn | None]:
    return asyncio.create_task(schedule.turn(session, cost, deadline))


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def got(task: asyncio.Task[Turn | None]) -> Turn:
    turn = await asyncio.wait_for(task, 60)
    assert turn is not None
    return turn


async def test_turns_are_granted_in_order_and_singly_where_things_change() -> None:
    schedule = make()
    tasks = [ask(schedule) for _ in range(3)]
    for at, task in enumerate(tasks):
        await settle()
        assert [each.done() for each in tasks] == [True] * (at + 1) + [False] * (2 - at)
        schedule.release(await got(task))
    assert schedule.waiting == 0


@pytest.mark.parametrize("session", WINDOWS)
async def test_a_session_has_its_window(session: str) -> None:
    schedule = make()
    tasks = [ask(schedule, session, READS) for _ in range(WINDOWS[session] + 2)]
    await settle()
    assert sum(task.done() for task in tasks) == WINDOWS[session]
    assert schedule.waiting == 2
    schedule.release(await got(tasks[0]))
    await settle()
    assert sum(task.done() for task in tasks) == WINDOWS[session] + 1
    for task in tasks[WINDOWS[session] + 1 :]:
        task.cancel()


async def test_a_turn_given_back_twice_makes_no_second_place() -> None:
    schedule = make()
    turn = await got(ask(schedule))
    schedule.release(turn)
    schedule.release(turn)
    first, second = ask(schedule), ask(schedule)
    await settle()
    assert (first.done(), second.done()) == (True, False)
    second.cancel()


async def test_sessions_do_not_wait_for_one_another() -> None:
    schedule = make()
    write, urgent, read = ask(schedule), ask(schedule, "urgent"), ask(schedule, "read", READS)
    for task in (write, urgent, read):
        await got(task)


async def test_nothing_is_granted_while_it_is_closed_and_all_once_it_opens() -> None:
    schedule = make(opened=False)
    task = ask(schedule)
    await settle()
    assert not task.done()
    schedule.open()
    schedule.release(await got(task))
    schedule.close()
    task = ask(schedule)
    await settle()
    assert not task.done()
    task.cancel()


async def test_deadlines_pass_while_it_is_closed() -> None:
    schedule = make(opened=False)
    late, patient = ask(schedule, deadline=time.time() + 0.05), ask(schedule)
    assert await asyncio.wait_for(late, 60) is None
    assert not patient.done()
    assert schedule.waiting == 1
    schedule.open()
    await got(patient)


async def test_a_rate_holds_its_own_class_only() -> None:
    schedule = make(calls=0.01)
    first, second, change = ask(schedule, "write", CALLS), ask(schedule, "write", CALLS), ask(schedule)
    schedule.release(await got(first))
    schedule.release(await got(change))
    assert not second.done()
    second.cancel()


async def test_whoever_waits_for_a_rate_is_woken_when_it_lets_the_next_one_go() -> None:
    schedule = make(calls=20.0)
    began = time.monotonic()
    for _ in range(24):
        schedule.release(await got(ask(schedule, "write", CALLS)))
    assert 0.15 < time.monotonic() - began < 60


async def test_a_late_one_at_the_head_does_not_hold_up_those_behind_it() -> None:
    schedule = make(calls=0.5)
    schedule.release(await got(ask(schedule, "write", CALLS)))  # the next one may go two seconds later
    late = ask(schedule, "write", CALLS, deadline=time.time() + 0.02)
    patient = ask(schedule, "write", CALLS)
    assert await asyncio.wait_for(late, 60) is None
    schedule.release(await got(patient))


async def test_those_given_up_do_not_hold_up_those_who_come_later() -> None:
    schedule = make(opened=False)
    given_up = [ask(schedule) for _ in range(3)]
    await settle()
    for task in given_up:
        task.cancel()
    await settle()
    assert schedule.waiting == 0
    schedule.open()
    given_up = [ask(schedule) for _ in range(2)]  # the first has its turn, the second waits
    await settle()
    given_up[1].cancel()
    await settle()
    schedule.close()
    schedule.release(await got(given_up[0]))
    schedule.open()
    await got(ask(schedule))


async def test_a_turn_granted_to_one_that_is_cancelled_at_that_moment_is_given_back() -> None:
    schedule = make()
    holder = await got(ask(schedule))
    unlucky, next_one = ask(schedule), ask(schedule)
    await settle()
    schedule.release(holder)
    unlucky.cancel()
    await got(next_one)
    assert unlucky.cancelled()
    assert schedule.waiting == 0


async def test_what_was_late_from_the_start_is_told_so() -> None:
    assert await asyncio.wait_for(make().turn("write", CHANGES, time.time() - 1), 60) is None


@pytest.mark.parametrize(
    ("lane", "reads_only", "session"),
    [(URGENT, True, "urgent"), (URGENT, False, "urgent"), (ACTIONS, True, "read"), (ACTIONS, False, "write")],
)
def test_each_lane_and_kind_has_its_session(lane: str, reads_only: bool, session: str) -> None:
    assert session_of(lane, reads_only) == session


async def test_a_shared_turn_takes_as_many_places_as_it_has_actions() -> None:
    schedule = make()
    window = WINDOWS["read"]
    holder = await schedule.turn("read", READS, *[NEVER] * (window - 1))
    assert holder is not None
    pair = asyncio.create_task(schedule.turn("read", READS, NEVER, NEVER))
    await settle()
    assert not pair.done()
    schedule.release(holder)
    schedule.release(await got(pair))
    assert await schedule.turn("read", READS, *[NEVER] * window) is not None, "all places are free again"


async def test_turns_are_shared_only_where_nothing_counts_single_actions() -> None:
    assert make().may_share("read", READS)
    assert not make().may_share("write", CHANGES)
    assert not make().may_share("urgent", READS)
    limited = Schedule(Rates(0, {CALLS: 0.0, CHANGES: 0.0, READS: 5.0}), time.time)
    assert not limited.may_share("read", READS)
    assert not Schedule(Rates(5, {CALLS: 0.0, CHANGES: 0.0, READS: 0.0}), time.time).may_share("read", READS)


async def test_those_that_go_out_together_do_not_wait_for_one_that_is_late() -> None:
    schedule = make()
    turn = await asyncio.wait_for(schedule.turn("read", READS, NEVER, time.time() - 1), 60)
    assert turn is not None
    assert turn.size == 2


async def test_one_that_is_late_is_told_while_they_wait() -> None:
    schedule = make(opened=False)
    assert await asyncio.wait_for(schedule.turn("read", READS, NEVER, time.time() + 0.1), 60) is None
    assert schedule.waiting == 0


async def test_what_is_tried_again_keeps_its_place() -> None:
    schedule = make()
    first = schedule.number()
    holder = await got(ask(schedule))
    later = ask(schedule)
    await settle()
    again = asyncio.create_task(schedule.turn("write", CHANGES, NEVER, number=first))
    await settle()
    schedule.release(holder)
    await settle()
    assert (again.done(), later.done()) == (True, False)
    later.cancel()


async def test_those_whose_shared_turn_has_ended_by_a_deadline_line_up_before_who_came_later_goes() -> None:
    schedule = make()
    order: list[str] = []

    async def share() -> None:
        number = schedule.number()
        assert await schedule.turn("read", READS, time.time() + 0.01, NEVER, number=number) is None
        turn = await schedule.turn("read", READS, NEVER, number=number)
        assert turn is not None
        order.append("shared")
        schedule.release(turn)

    async def come_later() -> None:
        assert await schedule.turn("read", READS, *[NEVER] * WINDOWS["read"]) is not None
        order.append("later")

    late = ask(schedule, "read", READS, time.time() - 1)
    await settle()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(share())
        group.create_task(come_later())
    assert await late is None
    assert order == ["shared", "later"]
