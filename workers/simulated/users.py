"""Who may log in to the simulation, and what each may read and write."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_CLASSES = """system call log verbose command agent user config dtmf reporting cdr dialplan originate agi cc
aoc test security message"""
ALL_CLASSES = frozenset(_CLASSES.split())
"""The privilege classes of Asterisk 22."""


@dataclass(frozen=True)
class User:
    """One section of manager.conf: the secret and the classes of `read=` and `write=`."""

    secret: str = field(repr=False)
    read: frozenset[str] = ALL_CLASSES
    write: frozenset[str] = ALL_CLASSES


DEFAULT_USERS: Mapping[str, User] = {
    "amibus": User("amibus"),
    "amibus-events": User("amibus-events", write=frozenset()),
}


def as_users(users: Mapping[str, User | str] | None) -> dict[str, User]:
    """Names in lower case (Asterisk compares them so) to users; a bare secret means every right."""
    given = DEFAULT_USERS if users is None else users
    return {name.lower(): user if isinstance(user, User) else User(user) for name, user in given.items()}


def event_mask(words: str, readable: frozenset[str]) -> frozenset[str]:
    """What an `Events:` or `EventMask:` value lets through, out of what the user may read."""
    words = words.strip().lower()
    if words in ("on", "true", "yes", "1", "all"):
        return readable
    if words in ("off", "false", "no", "0", "none"):
        return frozenset()
    return readable & frozenset(words.split(","))
