"""The calls that are up, and how to find their channels."""

import time
from collections.abc import Callable, Sequence

from workers.simulated.calls import Call, Leg, render
from workers.simulated.order import Order
from workers.simulated.templates import sections

Publish = Callable[[Sequence[tuple[str, bytes]]], None]


class Switch:
    """Places calls, numbers channels, and knows each live leg by its name and its Uniqueid."""

    def __init__(self, publish: Publish, *, ring_s: float, talk_s: float, speed: float) -> None:
        self.publish = publish
        self.ring_s = ring_s
        self.talk_s = talk_s
        self.speed = speed
        self.processed = 0
        self.live: list[Call] = []
        self._legs: dict[str, Leg] = {}
        self._numbers = 0
        self._uniqueids = 0

    @property
    def legs(self) -> list[Leg]:
        return [leg for call in self.live for leg in call.legs]

    def find(self, name: str) -> Leg | None:
        """A channel by name (in any case) or Uniqueid."""
        return self._legs.get(name.lower())

    def place(self, order: Order) -> Call | None:
        """Start a call; None (after the OriginateResponse that says so) if its ChannelId is in use."""
        uniqueids = self._identify(order)
        if any(self.find(uniqueid) for uniqueid in uniqueids):
            self._refuse(order, uniqueids[0])
            return None
        call = Call(self, order, self.next_number(), uniqueids)
        self.processed += 1
        self.live.append(call)
        for leg in call.legs:
            self._legs[leg.channel.lower()] = self._legs[leg.uniqueid.lower()] = leg
        call.begin()
        return call

    def remove(self, call: Call) -> None:
        self.live.remove(call)
        for leg in call.legs:
            self._legs.pop(leg.channel.lower(), None)
            self._legs.pop(leg.uniqueid.lower(), None)

    def forget_all(self) -> None:
        """Lose every call without a word, as a crash does."""
        for call in self.live:
            call.forget()
        self.live.clear()
        self._legs.clear()

    def next_number(self) -> int:
        """What follows a channel's name; never the same twice."""
        self._numbers += 1
        return self._numbers - 1

    def next_uniqueid(self) -> str:
        self._uniqueids += 1
        return f"{int(time.time())}.{self._uniqueids - 1}"

    def tell_outcome(self, outcome: str) -> None:
        """An OriginateResponse that stands alone."""
        templates = [each for each in sections()["answer"] if each.event == "OriginateResponse"]
        self.publish(render(templates, {"outcome": outcome}))

    def _identify(self, order: Order) -> tuple[str, str]:
        first = order.channel_id or self.next_uniqueid()
        second = f"{first};2" if order.channel_id else self.next_uniqueid()
        return first, order.other_channel_id or second

    def _refuse(self, order: Order, uniqueid: str) -> None:
        if order.answered is not None:
            order.answered(False)
        else:
            self.tell_outcome(order.response(order.channel, uniqueid, reason=0))
