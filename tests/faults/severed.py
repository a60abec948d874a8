"""A network that takes every packet and delivers none: a session with an action on its way, in a network of its own.

Run as `unshare --map-root-user --net python -m tests.faults.severed`: it takes down the loopback of its network under
the session, and prints as JSON after how many seconds that was found, and what became of the action.
"""

import asyncio
import fcntl
import json
import socket
import struct
import time
from typing import Final

from broker.ami import Action, spec_of
from tests.workers.worker_process import SECRET, USERS, eventually
from workers.connection import AnswerTimeout, Asked, Connection, ConnectionLost
from workers.simulated import SimulatedAsterisk

SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 1
ANSWER_TIMEOUT_S: Final = 20.0
"""The action would be waited for so long."""


def set_loopback(*, up: bool) -> None:
    """Of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP if up else 0))


async def sever(moment: str) -> dict[str, object]:
    """`before`: the action is written into the cut network; `after`: Asterisk has it already, and is slow."""
    async with SimulatedAsterisk(users=USERS) as asterisk:
        session = await Connection.open("write", "127.0.0.1", asterisk.port, "amibus", SECRET)
        asterisk.faults.lose_response("a1")
        if moment == "before":
            set_loopback(up=False)
        asked = Asked(Action("Setvar", [("Variable", "x"), ("Value", "1")], "a1"), spec_of("Setvar"), ANSWER_TIMEOUT_S)
        asking = asyncio.create_task(session.request(asked))
        if moment == "after":
            await eventually(lambda: asterisk.writes("a1"))
            set_loopback(up=False)
        began = time.monotonic()
        fate = "answered"
        try:
            await asking
        except (ConnectionLost, AnswerTimeout) as error:
            fate = type(error).__name__
        return {"found_after_s": round(time.monotonic() - began, 2), "fate": fate, "why": await session.lost}


if __name__ == "__main__":
    for moment in ("before", "after"):
        set_loopback(up=True)
        print(json.dumps({"moment": moment, **asyncio.run(sever(moment))}), flush=True)
