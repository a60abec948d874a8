"""The texts of a call's events, from the package's `call_events.txt`."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Template:
    """One event of a real call, with %(names)s where calls differ."""

    event: str
    privilege: str
    """The event's privilege class, which decides who is sent it."""
    text: str
    local_only: bool
    """About the second leg, which only a Local channel has."""


@cache
def sections() -> dict[str, tuple[Template, ...]]:
    """The file's sections by name, each the events of one step in a call's life."""
    text = files("workers.simulated").joinpath("call_events.txt").read_text(encoding="ascii")
    found: dict[str, tuple[Template, ...]] = {}
    for section in text.split("\n=== ")[1:]:
        heading, _, body = section.partition("\n")
        found[heading.partition(":")[0]] = tuple([_template(each) for each in body.split("\n\n") if each.strip()])
    return found


def _template(text: str) -> Template:
    lines = text.strip("\n").split("\n")
    headers = dict([line.split(": ", 1) for line in lines if ": " in line])
    local_only = "(channel2)" in text or headers["Event"] == "LocalBridge"
    privilege = headers["Privilege"].removesuffix(",all")
    return Template(headers["Event"], privilege, "\r\n".join([*lines, "", ""]), local_only)
