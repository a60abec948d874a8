"""The names of the files, by which all that is under way is told."""

import base64
import os
import re
from dataclasses import dataclass
from typing import Final, Self

ACTION: Final = ".action"
TAKEN: Final = ".taken"
OUT: Final = ".out"
ERROR: Final = ".error"
REFUSED: Final = ".refused"
DRAFT: Final = ".draft"
LOCK: Final = ".amibus-spool.lock"

_TAKEN_NAME: Final = re.compile(r"(?P<stem>.+)\.(?P<taken_at>\d{1,12})\.(?P<token>[a-z2-7]{10})\.taken", re.DOTALL)
_DRAFT_NAME: Final = re.compile(r"\..+\.[a-z2-7]{10}\.draft", re.DOTALL)


def stem_of(name: str) -> str | None:
    """`NAME` of `NAME.action`; None for any other file, hidden ones among them: so writers call what is not whole."""
    if name.startswith(".") or not name.endswith(ACTION) or name == ACTION:
        return None
    return name.removesuffix(ACTION)


def is_draft(name: str) -> bool:
    """Whether it is an answer that was being written."""
    return _DRAFT_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that is under way."""

    stem: str
    taken_at: int
    """Unix seconds by Redis' clock."""
    token: str
    """By chance: no two takings have the same."""

    @classmethod
    def now(cls, stem: str, time: float) -> Self:
        """A file that is about to be taken."""
        return cls(stem, int(time), base64.b32encode(os.urandom(7)).decode().lower()[:10])

    @classmethod
    def from_name(cls, name: str) -> Self | None:
        """What the name of a `.taken` file says; None for any other."""
        found = _TAKEN_NAME.fullmatch(name)
        return None if found is None else cls(found["stem"], int(found["taken_at"]), found["token"])

    @property
    def name(self) -> str:
        """While it is under way."""
        return f"{self.stem}.{self.taken_at}.{self.token}{TAKEN}"

    @property
    def draft(self) -> str:
        """Its answer, until that is whole."""
        return f".{self.stem}.{self.token}{DRAFT}"

    def action_id(self, number: int) -> str:
        """The ActionID of its first, second, ... action that brings none: the same after each restart."""
        return f"spool-{self.taken_at}-{self.token}-{number}"

    def tag(self, number: int) -> str:
        """The `Bus-Tag` of an action that brings none: which file it is from."""
        place = f"{ACTION}#{number}"
        return ascii(self.stem)[1:-1][: 256 - len(place)] + place
