"""The actions that the worker executes itself: their names begin with `Bus`, and they never reach Asterisk."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from redis.asyncio import Redis

from broker.ami import Headers
from broker.codec import State
from broker.entry import Request, printable
from broker.errors import ErrorCode, Refused
from workers.batch import until_done
from workers.channels import Channel, Channels
from workers.clock import ServerClock
from workers.config import Settings
from workers.connection import AnswerTimeout, ConnectionLost
from workers.follows import Follows, TooManyFollows
from workers.outcome import Outcome
from workers.sessions import Sessions

PREFIX: Final = "bus"

FOLLOW_S: Final = 600.0
"""How long a call is followed where `Bus-Timeout` does not say."""

AWAY_S: Final = 10.0
"""How long a follow waits for Asterisk's word on the channel."""


def is_own(request: Request) -> bool:
    """Whether the worker itself executes it, or refuses it as unknown."""
    return request.action[: len(PREFIX)].lower() == PREFIX


class OwnActions:
    """What the worker does itself.

    Each may be repeated without harm, and is, if a worker is lost in the middle of it.
    """

    def __init__(
        self, redis: "Redis", settings: Settings, *, clock: ServerClock, sessions: Sessions, channels: Channels,
        follows: Follows,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._keys = settings.keys
        self._clock = clock
        self._sessions = sessions
        self._channels = channels
        self._follows = follows
        self._table: dict[str, Callable[[Request], Awaitable[Outcome]]] = {"busfollow": self._follow}

    def check(self, request: Request) -> None:
        """Raises `Refused` for what is malformed."""
        name = printable(request.action)
        if request.action.lower() not in self._table:
            raise Refused(ErrorCode.MALFORMED, f"{name} is not an action of this version of amibus")
        if not request.target:
            raise Refused(ErrorCode.MALFORMED, f"{name} needs a Bus-Target")
        if request.pairs:
            raise Refused(
                ErrorCode.MALFORMED, f"{name} takes no header of AMI, and {printable(request.pairs[0][0])} is one"
            )

    async def do(self, request: Request) -> Outcome:
        """Execute it. Raises `Refused`."""
        return await self._table[request.action.lower()](request)

    async def _follow(self, request: Request) -> Outcome:
        """From now on publish the events of a call on a channel of its own."""
        target = request.target
        is_new = self._follows.get(target) is None
        try:
            # Before the question: what happens after the answer is not missed.
            follow = self._follows.begin(target, self._clock.now() + (request.timeout_s or FOLLOW_S))
        except TooManyFollows as error:
            raise Refused(ErrorCode.FORBIDDEN, str(error)) from None
        known = {target: set(follow.legs)}
        try:
            async with asyncio.timeout(AWAY_S):
                await self._sessions.ready.wait()
                alive = await self._channels.alive_from_now()
        except (ConnectionLost, AnswerTimeout, TimeoutError):
            if is_new:
                self._follows.give_up(target)
            return _failed(ErrorCode.NOT_EXECUTED, "Asterisk is away, and nobody can say whether there is such a call")
        if alive is not None:
            self._follows.see(alive, known)
        if self._follows.get(target) is not follow:
            return _failed(ErrorCode.ASTERISK_ERROR, "No such channel")
        until = f"{follow.until:.6f}"
        await until_done("a follow", lambda: self._redis.hset(self._keys.follows, target, until))
        if self._follows.get(target) is None:  # it has ended since, and was struck out too early
            await until_done("a follow", lambda: self._redis.hdel(self._keys.follows, target))
        response = Headers([("Response", "Success"), ("Message", "Following"), ("Until", until)])
        channels = alive or {}
        legs = [channels[uniqueid] for uniqueid in channels if uniqueid in follow.legs]
        return Outcome(State.DONE, response, events=[_leg(channel, channels) for channel in legs])


def _leg(channel: Channel, alive: dict[str, Channel]) -> Headers:
    """What is told of a leg, as a Newchannel and a BridgeEnter would."""
    pairs = [
        ("Event", "BusLeg"),
        ("Channel", channel.name),
        ("ChannelState", channel.state),
        ("ChannelStateDesc", channel.state_text),
        ("Uniqueid", channel.uniqueid),
        ("Linkedid", channel.linkedid),
    ]
    if channel.bridge_id:
        together = sum(other.bridge_id == channel.bridge_id for other in alive.values())
        pairs += [("BridgeUniqueid", channel.bridge_id), ("BridgeNumChannels", str(together))]
    return Headers(pairs)


def _failed(code: ErrorCode, message: str) -> Outcome:
    response = Headers([("Response", "Error"), ("Message", message)])
    return Outcome(State.FAILED, response, code=code, message=message)
