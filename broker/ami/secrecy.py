"""Which headers and events hold secrets, so that they are kept out of records, channels and logs."""

import re
from collections.abc import Iterable
from typing import Final

from broker.ami.message import Pairs

HIDDEN: Final = "***"

MASKED_HEADERS: Final = frozenset(
    (
        "authkey", "key", "md5cred", "md5_cred", "md5secret", "newpassword", "oldpassword", "outboundpassword",
        "passwd", "password", "passworddigest", "password_digest", "pin", "pinmarked", "remotesecret", "secret",
    )
)  # fmt: skip
"""Headers that hold a secret, in lower case."""

SENSITIVE_EVENTS: Final = frozenset(("voicemailpasswordchange", "authdetail", "authlist"))
"""Events that hold a secret in clear, in lower case: not for channels that many may read (app_voicemail.c,
config_auth.c)."""

_SECRET_ENDINGS: Final = ("password", "passwd", "secret")
_ASSIGNED: Final = re.compile(r"(?:^|,)([^=,]*)=")
"""The name of each variable in `Variable: a=1,b=2`."""


def is_secret_name(name: str) -> bool:
    """Whether a header, or a variable, of that name holds a secret."""
    lowered = name.strip().lower()
    return lowered in MASKED_HEADERS or lowered.endswith(_SECRET_ENDINGS)


def mask(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """The headers, with `***` for what is secret.

    Besides headers with a secret name: the Value of a Setvar, what follows `name=` in Variable, and UpdateConfig's
    numbered Value, of something with a secret name. `Key` is a secret in Login, but not where a Family says that it is
    the database's.
    """
    given = list(pairs)
    if not given:
        return given
    hidden = {name.lower() for name, _ in given if is_secret_name(name)}
    if any(name.lower() == "family" for name, _ in given):
        hidden.discard("key")
    for name, value in given:
        lowered = name.lower()
        if lowered == "variable" and is_secret_name(value):
            hidden.add("value")
        elif lowered.startswith("var-") and is_secret_name(value):
            number = lowered.removeprefix("var-")
            hidden.update((f"value-{number}", f"match-{number}"))
    return [(name, HIDDEN if name.lower() in hidden else _masked_value(name, value)) for name, value in given]


def _masked_value(name: str, value: str) -> str:
    if name.lower() != "variable":
        return value
    for assigned in _ASSIGNED.finditer(value):
        if is_secret_name(assigned[1]):
            # Everything behind it, as only Asterisk knows where a quoted or escaped value ends.
            return f"{value[: assigned.end()]}{HIDDEN}"
    return value
