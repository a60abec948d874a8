"""Who goes next: lanes, sessions and rates, in memory. An entry in here is only pending; nothing has happened to it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from broker.keys import URGENT
from workers.rates import Rates

CALLS: Final = "calls"
CHANGES: Final = "changes"
READS: Final = "reads"
COSTS: Final = (CALLS, CHANGES, READS)
"""The classes that have a rate of their own: call-making, otherwise state-changing, read-only."""

WINDOWS: Final = {"urgent": 1, "write": 1, "read": 512}
"""Actions under way per session. State-changing ones go singly: after a crash only what was on its way is in doubt.
Read-only ones are pipelined, since Asterisk answers in order and they can be repeated."""


MAX_GROUP: Final = 128
"""Read-only actions that share a turn: a part of their window, so that the next are written before the last of these
is answered."""

SWEEP_S: Final = 0.2
"""How often the waiting entries' deadlines are looked at."""


@dataclass(slots=True)
class Turn:
    """A place in the queues: of one entry, or of several that go out together."""

    session: str
    cost: str
    deadline: float
    """Unix seconds by Redis' clock; of several that go out together the first that passes."""
    last_deadline: float
    """And the last of them: while that has not passed, it may go."""
    number: int
    """Counts the turns in the order of their arrival."""
    size: int = 1
    """How many actions are written in it."""
    granted: asyncio.Future[bool] | None = field(default=None, repr=False)
    is_over: bool = False


class Schedule:
    """Grants turns: first come first served within a session and class, never beyond a rate or a session's window.

    `server_now` tells Redis' time, by which deadlines are judged. The caller must `release` each turn that it got.
    """

    def __init__(self, rates: Rates, server_now: Callable[[], float]) -> None:
        self._rates = rates
        self._server_now = server_now
        # Urgent comes first in both: where a rate is short, a Hangup overtakes thousands of queued Originates.
        self._queues = {session: {cost: deque[Turn]() for cost in COSTS} for session in WINDOWS}
        self._numbers = count()
        self._loop = asyncio.get_running_loop()
        self._free = dict(WINDOWS)
        self._open: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_parting = False
        """Turns have ended by their deadline, and whoever waited for them does not know it yet."""
        self.waiting = 0

    def may_share(self, session: str, cost: str) -> bool:
        """Whether actions of this kind may share a turn: only where they are pipelined, and no rate counts them."""
        return WINDOWS[session] > 1 and not self._rates.limits(cost)

    def number(self) -> int:
        """The next place in the order: who is to try again gives it again, and so stays before who came later."""
        return next(self._numbers)

    async def turn(self, session: str, cost: str, *deadlines: float, number: int | None = None) -> Turn | None:
        """Wait for a turn to write one action for each deadline (see `may_share`), at this place of the order or the
        next. None: one of them passed while it was waited for (as far as this host can tell)."""
        number = self.number() if number is None else number
        turn = Turn(session, cost, min(deadlines), max(deadlines), number, len(deadlines))
        queue = self._queues[session][cost]
        if not queue and not self._is_parting and self._may_go(turn):
            return turn
        turn.granted = self._loop.create_future()
        self._line_up(queue, turn)
        self.waiting += 1
        self._watch_deadlines()
        try:
            return turn if await turn.granted else None
        except asyncio.CancelledError:
            if turn.granted.cancelled():
                self.waiting -= 1
            elif turn.granted.result():
                self.release(turn)
            raise

    @staticmethod
    def _line_up(queue: deque[Turn], turn: Turn) -> None:
        place = len(queue)
        while place and queue[place - 1].number > turn.number:
            place -= 1
        queue.insert(place, turn)

    def release(self, turn: Turn) -> None:
        """What the turn was for is over; once is enough."""
        if turn.is_over:
            return
        turn.is_over = True
        self._free[turn.session] += turn.size
        if self.waiting:
            self._grant(turn.session)

    def open(self, sessions: Iterable[str] = WINDOWS) -> None:
        """These sessions are there: grant turns on them."""
        self._open.update(sessions)
        self._grant_all()

    def close(self, sessions: Iterable[str] = WINDOWS) -> None:
        """These sessions are away, or the worker drains: grant no turn on them. Deadlines still pass."""
        self._open.difference_update(sessions)

    def _may_go(self, turn: Turn) -> bool:
        """Take a place in the session's window and a rate token, if both are to be had."""
        if turn.session not in self._open or self._free[turn.session] < turn.size:
            return False
        if turn.last_deadline < self._server_now():
            return False
        now = time.monotonic()
        wait_s = self._rates.wait_s(turn.cost, now)
        if wait_s > 0:
            self._wake_in(wait_s)
            return False
        self._rates.take(turn.cost, now)
        self._free[turn.session] -= turn.size
        return True

    def _grant_all(self) -> None:
        self._timer = None
        for session in self._queues:
            self._grant(session)

    def _grant(self, session: str) -> None:
        """Grant what may go on a session, in the order of arrival; a class whose rate is used up holds up no other."""
        if self._is_parting:
            return  # it follows at once
        queues = [queue for queue in self._queues[session].values() if queue]
        while queues:
            queue = queues[0] if len(queues) == 1 else min(queues, key=lambda queue: queue[0].number)
            turn = queue[0]
            assert turn.granted is not None
            if turn.granted.done():  # given up
                queue.popleft()
            elif self._may_go(turn):
                queue.popleft()
                self._finish(turn, granted=True)
            else:
                queues = [other for other in queues if other is not queue]
                continue
            if not queue:
                queues = [other for other in queues if other is not queue]

    def _finish(self, turn: Turn, *, granted: bool) -> None:
        assert turn.granted is not None
        self.waiting -= 1
        turn.granted.set_result(granted)

    def _wake_in(self, wait_s: float) -> None:
        loop = self._loop
        when = loop.time() + wait_s
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, self._grant_all)

    def _watch_deadlines(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._expire)

    def _expire(self) -> None:
        """End the turns whose deadline has passed; look again while any waits."""
        self._sweeper = None
        now = self._server_now()
        for queue in (queue for queues in self._queues.values() for queue in queues.values()):
            late = [turn for turn in queue if turn.deadline < now]
            if late:
                kept = [turn for turn in queue if turn.deadline >= now]
                queue.clear()
                queue.extend(kept)
            for turn in late:
                if turn.granted is not None and not turn.granted.done():
                    self._finish(turn, granted=False)
        # A late one at the head held up those behind it; but whoever shared its turn lines up again before they go.
        if not self._is_parting:
            self._is_parting = True
            self._loop.call_soon(self._part)
        if self.waiting:
            self._watch_deadlines()

    def _part(self) -> None:
        """Whoever was told that a deadline has passed has lined up again by now, if it will."""
        self._is_parting = False
        for session in self._queues:
            self._grant(session)


def session_of(lane: str, reads_only: bool) -> str:
    """Which AMI session an action goes to: urgent ones have their own, so that nothing ordinary is before them."""
    if lane == URGENT:
        return "urgent"
    return "read" if reads_only else "write"
