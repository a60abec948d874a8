"""What is dangerous in an action: running code, reading secrets, hanging up everybody. Pure functions.

Asterisk has guards of its own (classes, live_dangerously); they differ by version, and the bus' own user may
pass them all. So they are not relied on, and what is doubtful counts as dangerous. Case never matters, and of
a header that is given twice both are looked at.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from broker.ami.catalog import lookup

DANGEROUS_APPLICATIONS: Final = (
    "AGI",
    "DBDel",
    "Exec",
    "ExternalIVR",
    "MixMonitor",
    "Originate",
    "Reload",
    "System",
)
"""Applications whose names hold one of these, such as TrySystem: Asterisk's list for Originate (manager.c:5137)."""

DANGEROUS_FUNCTIONS: Final = (
    "AST_CONFIG", "AST_SORCERY", "CONFBRIDGE", "CURL", "CURLOPT", "DB", "DB_DELETE", "DB_EXISTS",
    "DB_KEYCOUNT", "DB_KEYS", "DUNDILOOKUP", "DUNDIQUERY", "ENV", "EVAL", "EVAL_EXTEN", "EVAL_SUB", "FILE",
    "FILE_COUNT_LINE", "FILE_FORMAT", "IMPORT", "LOCK", "MINIVMACCOUNT", "PERIODIC_HOOK", "PP_EACH_EXTENSION",
    "PP_EACH_USER", "REALTIME", "REALTIME_DESTROY", "REALTIME_FIELD", "REALTIME_HASH", "REALTIME_STORE",
    "SHELL", "STAT", "SYSTEM", "TRYLOCK", "UNLOCK", "VM_INFO",
)  # fmt: skip
"""Dialplan functions that run programs, evaluate text, reach files, databases and the network, read
configuration, or can block Asterisk: those that Asterisk calls escalating (manager.c, func_*.c), those of its
advisories, and their kin."""

DANGEROUS_VARIABLES: Final = frozenset(("MONITOR_EXEC", "MONITOR_EXEC_ARGS"))
"""Plain variables that are run as a program (res_monitor, up to Asterisk 20)."""

SECRET_SHOWS: Final = (
    "ari show user", "config show", "core show globals", "database show", "dialplan show", "iax2 show user",
    "manager show user", "minivm show", "pjsip show auth", "realtime show", "sip show user",
)  # fmt: skip
"""Beginnings of `show` commands that may print secrets: passwords, the database, the dialplan's globals."""

_FUNCTION: Final = re.compile(
    # Any ODBC function: func_odbc.conf names them, ODBC_ first by default. No word boundary before a name:
    # `_` and `__` stand before the name of an inherited variable. A blank before the bracket calls nothing
    # today, but is refused too.
    rf"(?<![A-Za-z0-9])({'|'.join(sorted(DANGEROUS_FUNCTIONS, key=len, reverse=True))}|ODBC\w*)\s*\(",
    re.ASCII | re.IGNORECASE,
)
_COMPUTED_NAME: Final = re.compile(r"\$\{[^}(:]*\$[{\[]")
"""`${SH${X}ELL(...)}`: Asterisk substitutes the inner one first; only it can tell which function that calls."""

_VARIABLE: Final = re.compile(
    rf"(?<![A-Za-z0-9])({'|'.join(sorted(DANGEROUS_VARIABLES))})(?!\w)", re.ASCII | re.IGNORECASE
)
_SHOW: Final = re.compile(r"[a-z0-9_]+ show( [a-z0-9_.@/:,+-]+)*", re.ASCII)
"""A family, `show`, plain words: no quotes, backslashes, `;`, `!` or braces, which may be read otherwise."""

_EVALUATED_HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "originate": ("variable", "data"),
    "setvar": ("variable", "value"),
    "userevent": (),  # its headers are only copied
}
_EVALUATED_ELSEWHERE: Final = ("variable", "variables")
_QUEUE_AGI_ARGUMENT: Final = 5
"""Queue(name,options,URL,announce,timeout,AGI,...): app_queue.c runs it on the member's channel."""

_BLANKS: Final = "".join(map(chr, range(1, 33)))
"""What Asterisk skips before a value: everything up to the blank (ast_skip_blanks)."""


@dataclass(frozen=True, slots=True)
class Risk:
    """One dangerous thing in an action."""

    token: str
    """The name by which a setting can allow it, such as 'GetConfig', 'Originate:System', 'function:SHELL'."""
    why: str
    """One sentence without its full stop, for a person."""
    never: bool = False
    """No setting can allow it."""


def risks_of(name: str, pairs: Sequence[tuple[str, str]]) -> list[Risk]:
    """All that is dangerous in an action, most serious first; empty for one that may simply be sent."""
    if not pairs and _is_harmless(name):
        return []
    name = name.strip(_BLANKS).lower()
    headers = [(header.strip().lower(), value.lstrip(_BLANKS)) for header, value in pairs]
    risks = _risks_of_action(name, headers)
    if name in ("hangup", "pjsiphangup"):
        risks += _risks_of_hangup(headers)
    elif name in ("mixmonitor", "confbridgestartrecord"):
        risks += _risks_of_recording(name, headers)
    elif name == "originate":
        risks += _risks_of_originate(headers)
    evaluated = _EVALUATED_HEADERS.get(name, _EVALUATED_ELSEWHERE)
    # A Setvar's Value is set as it is, but somebody's EVAL may come by later.
    risks += _risks_of_evaluation(
        [value for header, value in headers if header in evaluated and (header != "value" or "$" in value)]
    )
    return list(dict.fromkeys(risks))


@lru_cache(maxsize=1024)
def _is_harmless(name: str) -> bool:
    """Whether it is an action of the catalog that is dangerous by its headers at most."""
    spec = lookup(name.strip(_BLANKS))
    return spec is not None and not spec.risk


def dangerous_application(name: str) -> str | None:
    """The entry of `DANGEROUS_APPLICATIONS` that an application's name holds, or None."""
    lowered = name.lower()
    return next((entry for entry in DANGEROUS_APPLICATIONS if entry.lower() in lowered), None)


def dangerous_functions_in(text: str) -> list[str]:
    """The dangerous functions that a text may call, in upper case: `${SHELL(ls)}`, `FILE(x)=`, `curl (x)`.

    `computed` stands for a name that only Asterisk can work out: `${SH${X}ELL(ls)}`.
    """
    found = [match[1].upper() for match in _FUNCTION.finditer(text)]
    if _COMPUTED_NAME.search(text):
        found.append("computed")
    return list(dict.fromkeys(found))


def reads_function(variable: str) -> bool:
    """Whether a Variable names a dialplan function, which runs when it is read or set."""
    return "(" in variable


def is_regex_channel(value: str) -> bool:
    """Whether Hangup takes this Channel for a regular expression; `/./` is every channel (manager.c:3594)."""
    return value.lstrip(_BLANKS).startswith("/")


def is_show_command(line: str) -> bool:
    """Whether a CLI line only shows something, and nothing secret: `core show channels`, `queue show`."""
    words = " ".join(line.lower().split())
    return line.isascii() and bool(_SHOW.fullmatch(words)) and not words.startswith(SECRET_SHOWS)


def _risks_of_action(name: str, headers: list[tuple[str, str]]) -> list[Risk]:
    spec = lookup(name)
    if spec is None or not spec.risk:
        return []
    if spec.risk == "session":
        return [Risk(spec.name, f"{spec.name} is the worker's own: {spec.risk_reason}", never=True)]
    if spec.name == "Command" and all(is_show_command(line) for line in _values(headers, "command")):
        return []
    kind = "is as good as running code" if spec.risk == "code" else "reads secrets"
    return [Risk(spec.name, f"{spec.name} {kind}: {spec.risk_reason}")]


def _risks_of_hangup(headers: list[tuple[str, str]]) -> list[Risk]:
    if any(is_regex_channel(channel) for channel in _values(headers, "channel")):
        return [
            Risk(
                "regex-hangup",
                "a Channel that begins with / is a regular expression and may hang up every call",
            )
        ]
    return []


def _risks_of_recording(name: str, headers: list[tuple[str, str]]) -> list[Risk]:
    if name == "mixmonitor":
        # Asterisk makes one text of them, "File,Options,Command": a comma begins the next (app_mixmonitor.c).
        token, joined = "MixMonitor:Command", ["file", "options"]
    else:
        # The file's name becomes the arguments of MixMonitor (app_confbridge.c, conf_start_record).
        token, joined = "ConfbridgeStartRecord:Command", ["recordfile"]
    if any(_values(headers, "command")) or any("," in value for header in joined for value in _values(headers, header)):
        return [
            Risk(
                token,
                "a Command, or a comma in the file's name or the options, runs a program after the recording",
            )
        ]
    return []


def _risks_of_originate(headers: list[tuple[str, str]]) -> list[Risk]:
    applications = _values(headers, "application")
    found = [entry for each in applications if (entry := dangerous_application(each))]
    if any(each.lower().startswith("queue") for each in applications):
        found += ["AGI" for data in _values(headers, "data") if _runs_agi(data)]
    return [Risk(f"Originate:{entry}", f"the application {entry} is as good as running code") for entry in found]


def _runs_agi(queue_data: str) -> bool:
    return any(argument.strip() for argument in queue_data.split(",")[_QUEUE_AGI_ARGUMENT : _QUEUE_AGI_ARGUMENT + 1])


def _risks_of_evaluation(values: Iterable[str]) -> list[Risk]:
    risks = []
    for value in values:
        for function in dangerous_functions_in(value):
            what = (
                "a function whose name is computed" if function == "computed" else f"the dialplan function {function}"
            )
            risks.append(Risk(f"function:{function}", f"{what} can run programs, reach files or read secrets"))
        for match in _VARIABLE.finditer(value):
            variable = match[1].upper()
            risks.append(Risk(f"variable:{variable}", f"the variable {variable} is run as a program"))
    return risks


def _values(headers: list[tuple[str, str]], name: str) -> list[str]:
    return [value for header, value in headers if header == name and value]
