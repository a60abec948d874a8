"""The Command action: a few console commands, with Asterisk's layout."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from workers.simulated.calls import STATES
from workers.simulated.received import Received, error, respond
from workers.simulated.registry import action
from workers.simulated.session import Session

if TYPE_CHECKING:
    from workers.simulated.server import SimulatedAsterisk

BLACKLISTED = ("module load", "module unload", "restart gracefully")


@action("Command", "command", synopsis="Execute Asterisk CLI Command.")
def command(session: Session, action: Received) -> str:
    line = action.get("Command")
    words = line.lower().split()
    if not words:
        return error(action, "No command provided")
    if " ".join(words[:2]) in BLACKLISTED:
        return error(action, "Command blacklisted")
    known = COMMANDS.get(" ".join(words))
    output = _unknown(line) if known is None else known(session.asterisk)
    headers = [("Message", "Command output follows"), *[("Output", each) for each in output]]
    return respond(action, "Error" if known is None else "Success", *headers)


def _unknown(line: str) -> list[str]:
    return [f"No such command '{line}' (type 'core show help {line}' for other possible commands)"]


def _version(asterisk: "SimulatedAsterisk") -> list[str]:
    return [f"Asterisk {asterisk.version} (simulated by amibus)"]


def _uptime(asterisk: "SimulatedAsterisk") -> list[str]:
    seconds = int(time.time() - asterisk.started_at)
    parts = [(seconds // 3600, "hour"), (seconds // 60 % 60, "minute"), (seconds % 60, "second")]
    said = ", ".join([f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in parts if n]) or "0 seconds"
    return [f"System uptime: {said}", f"Last reload: {said}"]


def _channels(asterisk: "SimulatedAsterisk") -> list[str]:
    legs, calls = asterisk.switch.legs, len(asterisk.switch.live)
    lines = [f"{'Channel':<64} {'Location':<32} {'State':<7} {'Application(Data)':<30}"]
    for leg in legs:
        location = f"{leg.exten}@{leg.context}:{leg.priority}"
        running = f"{leg.application}({leg.data})" if leg.application else "(None)"
        lines.append(f"{leg.channel:<64} {location:<32} {STATES[leg.state]:<7} {running:<30}")
    return [
        *lines,
        f"{len(legs)} active channel{'' if len(legs) == 1 else 's'}",
        f"{calls} active call{'' if calls == 1 else 's'}",
        f"{asterisk.switch.processed} call{'' if asterisk.switch.processed == 1 else 's'} processed",
    ]


COMMANDS: dict[str, Callable[["SimulatedAsterisk"], list[str]]] = {
    "core show version": _version,
    "core show uptime": _uptime,
    "core show channels": _channels,
}
