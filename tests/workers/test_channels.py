"""Asking which channels are alive: those who ask at the same time share one answer."""

import asyncio
from typing import Any, cast

from broker.ami import Event, Exchange, Headers, InFlight, Response, spec_of
from workers.channels import Channel, Channels
from workers.connection import Asked
from workers.sessions import Sessions


class Slow:
    """Sessions whose answers come when the test lets them: the number of the question as the only channel."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[asyncio.Event] = []

    async def request(self, role: str, asked: Asked) -> Exchange:
        self.asked += 1
        number, answer = self.asked, asyncio.Event()
        self.answers.append(answer)
        await answer.wait()
        action_id = asked.action.action_id or ""
        in_flight = InFlight()
        exchange = in_flight.register(action_id, spec_of("CoreShowChannels"))
        names: Any = [("Response", "Success"), ("EventList", "start")], [("Event", "CoreShowChannel")]
        last = [("Event", "CoreShowChannelsComplete"), ("EventList", "Complete")]
        known = ("ActionID", action_id)
        in_flight.add(Response(Headers([*names[0], known])))
        item = [*names[1], ("Uniqueid", f"u{number}"), ("Linkedid", "l"), ("BridgeId", "b"), known]
        in_flight.add(Event(Headers(item)))
        in_flight.add(Event(Headers([*last, known])))
        return exchange

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(60):
            while self.asked < times:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_one_answer_serves_all_who_wait() -> None:
    slow = Slow()
    channels = Channels(cast("Sessions", slow))
    waiting = [asyncio.create_task(channels.alive()) for _ in range(3)]
    await slow.until_asked(1)
    slow.answers[0].set()
    assert await asyncio.gather(*waiting) == [{"u1": Channel("u1", "l", "", "", "", "b")}] * 3
    assert slow.asked == 1


async def test_who_must_not_get_an_older_answer_waits_for_the_next() -> None:
    slow = Slow()
    channels = Channels(cast("Sessions", slow))
    first = asyncio.create_task(channels.alive_from_now())
    await slow.until_asked(1)
    late = [asyncio.create_task(channels.alive_from_now()) for _ in range(3)]
    await asyncio.sleep(0)
    slow.answers[0].set()
    await slow.until_asked(2)
    later = asyncio.create_task(channels.alive_from_now())
    await asyncio.sleep(0)
    slow.answers[1].set()
    await slow.until_asked(3)
    slow.answers[2].set()
    answers = [await each for each in (first, *late, later)]
    assert [[*(answer or ())] for answer in answers] == [["u1"], ["u2"], ["u2"], ["u2"], ["u3"]]
    assert slow.asked == 3
