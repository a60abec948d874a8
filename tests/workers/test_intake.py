"""What is said of entries that are taken again."""

from collections.abc import Collection
from typing import Any, cast

from structlog.testing import capture_logs

from broker.entry import Request
from broker.keys import ACTIONS, URGENT
from workers.intake import Intake
from workers.reader import Reader


class LosingReader:
    """The reply to each read of it was lost."""

    async def missed(
        self, lane: str, _held: Collection[str], _count: int, *, surely: bool
    ) -> tuple[list[Request], list[str]]:
        return [Request(lane, "1-0", "a1")], []


async def test_replies_that_are_lost_again_and_again_are_told_once_a_second() -> None:
    taken: list[str] = []

    def take(requests: list[Request]) -> None:
        taken.extend(each.lane for each in requests)

    async def settle_vanished(_lane: str, _entries: list[str]) -> None:
        raise AssertionError("nothing has vanished")

    intake = Intake(cast(Reader, LosingReader()), 10, take=take, settle_vanished=settle_vanished, may_read=lambda: True)
    with capture_logs() as logs:
        for lane in (ACTIONS, URGENT, ACTIONS):
            await intake.take_missed(lane, surely=True)
    assert taken == [ACTIONS, URGENT, ACTIONS]
    told: list[Any] = [(line["log_level"], line["event"]) for line in logs]
    assert told == [("warning", "entries were read and their reply was lost: taken again")]
