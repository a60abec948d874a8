"""The simulated Asterisk as a process of its own, which survives the workers and notes all that reached it in a file.

Commands and answers are JSON lines; the standard input's end ends it.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from tests.bench.side import Message, obey, say
from tests.faults.host import HOSTS, host_user
from tests.workers.worker_process import SECRET, USERS
from workers.simulated import SimulatedAsterisk, Written

HOST_USERS = USERS | {host_user(number): SECRET for number in range(HOSTS)}
"""Each host's worker logs in under a name of its own, so that a write tells who wrote it."""


class Journal(list[Written]):
    """The ledger, each line also in a file as soon as it is known."""

    def __init__(self, path: str, asterisk: SimulatedAsterisk) -> None:
        super().__init__()
        self._asterisk = asterisk
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(self, written: Written) -> None:
        """Note one action. It is not kept in memory: a campaign is long."""
        noted = {
            "action_id": written.action_id,
            "action": written.action,
            "at": time.time(),
            "session": written.session,
            "host": next((each.username for each in self._asterisk.sessions if each.number == written.session), ""),
        }
        os.write(self._file, json.dumps(noted).encode() + b"\n")


async def main() -> None:
    """Serve until the standard input ends."""
    async with SimulatedAsterisk(users=HOST_USERS, ring_s=0.01, talk_s=0.02, seed=int(sys.argv[2])) as asterisk:
        asterisk.written = Journal(sys.argv[1], asterisk)
        say(port=asterisk.port)
        await obey(_commands(asterisk))


def _commands(asterisk: SimulatedAsterisk) -> dict[str, Any]:
    async def fault(name: str, **arguments: Any) -> Message:
        """One of the fault script's methods."""
        getattr(asterisk.faults, name)(**arguments)
        return {}

    async def drop(which: str) -> Message:
        return {"dropped": await asterisk.drop_connections(which)}

    async def restart(down_s: float) -> Message:
        await asterisk.restart(down_s)
        return {}

    async def tell(event: str, privilege: str, headers: list[list[str]]) -> Message:
        """An event of the test's own making."""
        asterisk.tell(event, privilege, *[(name, value) for name, value in headers])
        return {}

    async def hang_up(uniqueid: str) -> Message:
        """End the call of this leg."""
        [leg] = [leg for leg in asterisk.switch.legs if leg.uniqueid == uniqueid]
        leg.call.hang_up(leg, 16)
        return {}

    async def calls() -> Message:
        return {"calls": len(asterisk.calls)}

    return {"fault": fault, "drop": drop, "restart": restart, "tell": tell, "hang_up": hang_up, "calls": calls}


if __name__ == "__main__":
    asyncio.run(main())
