"""The channels that are alive on Asterisk, asked for."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.ami import Action, Exchange, Headers, spec_of
from workers.connection import Asked
from workers.sessions import Sessions

UP: Final = "6"
"""ChannelState of an answered channel (AST_STATE_UP)."""

ASK_TIMEOUT_S: Final = 10.0
"""How long the worker waits for the answers to its own questions."""


SNAPSHOT_CHANNELS: Final = 500
"""Channels in one BusSnapshot at most."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as CoreShowChannels tells of it."""

    uniqueid: str
    linkedid: str
    name: str
    state: str
    """`ChannelState`, a number."""
    state_text: str
    bridge_id: str = ""
    """The bridge that it is in, empty while it is in none."""


def question(name: str, *pairs: tuple[str, str]) -> Asked:
    """A question of the worker's own. Its ActionID has the form of an entry's id, which no producer may give."""
    return Asked(Action(name, pairs, f"0-{time.monotonic_ns()}"), spec_of(name), ASK_TIMEOUT_S)


def entity_question() -> Asked:
    """What is Asterisk's entity id? Its network card's address, or what asterisk.conf says (Asterisk 16 to 22)."""
    return question("Getvar", ("Variable", "ENTITYID"))


def entity_of(exchange: Exchange) -> str:
    """The answer to that; empty where Asterisk does not say."""
    response = exchange.answer.response
    return "" if response is None else response.headers.get("Value", "")


class Channels:
    """Asks which channels are alive; those who ask at the same time share one answer."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._asking: asyncio.Task[dict[str, Channel] | None] | None = None
        self._next: asyncio.Task[dict[str, Channel] | None] | None = None

    async def alive(self) -> dict[str, Channel] | None:
        """By Uniqueid; None where Asterisk does not say. Raises `ConnectionLost` or `AnswerTimeout`."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="channels alive")
        return await asyncio.shield(self._asking)

    async def alive_from_now(self) -> dict[str, Channel] | None:
        """The same, asked after this call: no channel is in it whose Hangup was seen before."""
        if self._asking is None or self._asking.done():
            return await self.alive()
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._ask_after(self._asking), name="channels alive, again")
        return await asyncio.shield(self._next)

    async def _ask_after(self, previous: "asyncio.Task[dict[str, Channel] | None]") -> dict[str, Channel] | None:
        await asyncio.wait([previous])
        self._next = None  # who comes now, comes too late for this one
        return await self.alive()

    async def _ask(self) -> dict[str, Channel] | None:
        exchange = await self._sessions.request("read", question("CoreShowChannels"))
        if exchange.failure is not None:
            return None
        channels = [
            Channel(
                headers.get("Uniqueid", ""),
                headers.get("Linkedid", ""),
                headers.get("Channel", ""),
                headers.get("ChannelState", ""),
                headers.get("ChannelStateDesc", ""),
                headers.get("BridgeId", ""),
            )
            for headers in (event.headers for event in exchange.answer.events if not event.completes_list)
        ]
        return {channel.uniqueid: channel for channel in channels}


def snapshot(channels: Mapping[str, Channel]) -> list[Headers]:
    """The headers of the `BusSnapshot` events that tell of these channels, `Part` of `Parts`.

    Each of the `Total` channels has the same place in all the headers that repeat.
    """
    every = [*channels.values()]
    parts = [every[first : first + SNAPSHOT_CHANNELS] for first in range(0, len(every), SNAPSHOT_CHANNELS)] or [[]]
    return [
        Headers(
            [("Part", str(number)), ("Parts", str(len(parts))), ("Total", str(len(every)))]
            + [
                pair
                for channel in part
                for pair in (
                    ("Channel", channel.name),
                    ("ChannelStateDesc", channel.state_text),
                    ("Uniqueid", channel.uniqueid),
                    ("Linkedid", channel.linkedid),
                )
            ]
        )
        for number, part in enumerate(parts, 1)
    ]
