"""A call that the bus placed, as far as its worker knows it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.entry import Request
from workers.notes import Note
from workers.outcome import Outcome


@dataclass(slots=True)
class Call:
    """One call of the bus, by the ActionID of the Originate that placed it."""

    action_id: str
    channel_id: str
    request: Request | None = None
    """The Originate, where this process has placed it: its record can be written anew from that."""
    channel: str = ""
    """The name of the first channel of it that was seen, as far as this process knows."""
    others: set[str] = field(default_factory=set)
    """Uniqueids beside the ChannelId that Redis takes for its legs, though its record knows of no channel."""
    legs: set[str] = field(default_factory=set)
    """Uniqueids of its live channels."""
    members: set[str] = field(default_factory=set)
    """Uniqueids of all channels that it has had: a leg dialled late carries the Linkedid of one that may have gone."""
    state: str = ""
    """Empty until a channel of it was seen; then `dialing`, `up`, `ended`."""
    cause: str = ""
    told_at: float = 0.0
    """The latest time that was told of it: no other is told that is before it, however Redis' clock is estimated."""
    response: asyncio.Future[Outcome] | None = None
    """What became of the Originate, for whoever waits for it."""
    has_outcome: bool = False
    """The OriginateResponse is here, though its event may still wait for Redis."""
    truth: Outcome | None = None
    """What was first seen of how the Originate ended."""
    is_doubtful: bool = False
    """The Originate was settled as `unknown`: what is seen of its call now is the truth about it."""
    is_unwatched: bool = False
    """Nobody saw its events for a while in which it may have been answered: that it ends does not say that it was
    not."""

    @property
    def unseen(self) -> list[str]:
        """What Redis takes for its legs while no channel of it has been seen."""
        return [self.channel_id, *self.others]

    @property
    def lacks_outcome(self) -> bool:
        """What became of the Originate is waited for, and has not come."""
        return self.response is not None and not self.response.done() and not self.has_outcome

    @property
    def is_over(self) -> bool:
        """Nothing more of it can come: its last leg hung up, and nobody waits for its OriginateResponse."""
        return self.state == "ended" and (self.response is None or self.response.done())

    def note(
        self,
        *,
        add: Iterable[str] = (),
        drop: Iterable[str] = (),
        fields: Iterable[str] = (),
        ttl_ms: int | None = None,
    ) -> Note:
        """What Redis is to be told of it: legs to add and to drop, fields of the record, and the life of that, in
        milliseconds, once the call is over."""
        return {"id": self.action_id, "add": [*add], "drop": [*drop], "fields": [*fields], "ttl_ms": ttl_ms}
