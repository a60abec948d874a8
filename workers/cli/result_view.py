"""A result for people: its state, Asterisk's answer, the items of a list as tables, the lines of a Command."""

import datetime
from collections.abc import Iterable
from typing import Final

from broker.ami import Headers
from broker.codec import Result, State, result_map
from workers.cli.event_view import facts
from workers.cli.output import Output

STATE_STYLES: Final[dict[str, str]] = {
    State.DONE: "bold green",
    State.UNKNOWN: "bold yellow",
    State.QUEUED: "bold blue",
    State.SENDING: "bold blue",
    State.SENT: "bold blue",
}
BAD_STYLE: Final = "bold red"

_FIRST: Final = (
    "Channel", "Uniqueid", "Queue", "Name", "ObjectName", "Extension", "Exten", "Context", "ChannelStateDesc",
    "CallerIDNum", "ConnectedLineNum", "Application", "ApplicationData", "Duration", "BridgeId", "Location", "Status",
    "State", "Calls",
)  # fmt: skip
"""Where not all columns find room, these are kept before others."""

_ENVELOPE: Final = frozenset(("event", "actionid", "privilege", "response", "message", "eventlist"))
_CELL_WIDTH: Final = 36
"""A column's width is reckoned with at most so much: one long value must not push all others out."""


def style_of(state: str) -> str:
    """The style of a state's name."""
    return STATE_STYLES.get(state, BAD_STYLE)


def show_result(output: Output, result: Result) -> None:
    """Everything that is known of a result."""
    if output.as_json:
        output.object(result_map(result))
        return
    _show_state(output, result)
    if result.error_code is not None:
        output.line((f"{result.error_code}:", "red"), result.error_message or "", between=" ")
    _show_response(output, result)
    for line in result.output:
        output.text(line)
    _show_items(output, result)


def _show_state(output: Output, result: Result) -> None:
    output.line(
        (result.state, style_of(result.state)),
        (result.action, "bold"),
        (result.action_id, "magenta"),
        (_took(result), "dim"),
        ("revised" if result.revised else "", "yellow"),
    )


def _took(result: Result) -> str:
    if result.settled_at is None or result.queued_at is None:
        return ""
    return duration(result.settled_at - result.queued_at)


def duration(seconds: float) -> str:
    """A time span for people."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


def local_time(unix_time: str) -> str:
    """The moment in the local time zone; what is no time stays as it is."""
    try:
        moment = datetime.datetime.fromtimestamp(float(unix_time)).astimezone()
    except (ValueError, OverflowError, OSError):
        return unix_time
    return moment.isoformat(" ", "seconds")


def _show_response(output: Output, result: Result) -> None:
    if result.response is None:
        return
    message = result.response.get("Message", "")
    if message and result.error_code is None and not result.output:
        output.line(message)
    for name, value in result.response:
        if name.lower() not in _ENVELOPE and not (name.lower() == "output" and result.output):
            output.line((f"{name}:", "dim"), value, between=" ")


def _show_items(output: Output, result: Result) -> None:
    items = [headers for headers in result.events if "EventList" not in headers]
    if len(items) == len(result.events):
        for headers in items:  # no list, but what came of the action: an OriginateResponse
            name = headers.get("Event", "")
            output.line((name, "bold cyan"), *[f"{header}={value}" for header, value in facts(name, headers)])
        return
    for name in dict.fromkeys(headers.get("Event", "") for headers in items):
        same = [headers for headers in items if headers.get("Event", "") == name]
        columns = choose_columns(same, output.width if output.terminal else None)
        output.line((f"{len(same)} {name}", "bold"))
        if columns:
            output.table(columns, [[", ".join(headers.get_all(column)) for column in columns] for headers in same])
    if not items:
        output.line(("an empty list", "dim"))


def choose_columns(items: Iterable[Headers], width: int | None) -> list[str]:
    """The columns of a table of items: all that hold anything, or the most telling of them that fit the width."""
    widths: dict[str, int] = {}
    for headers in items:
        for name, value in headers:
            if value and name.lower() not in _ENVELOPE:
                widths[name] = max(widths.get(name, len(name)), len(value))
    if width is None:
        return list(widths)
    kept: set[str] = set()
    for name in sorted(widths, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        width -= min(widths[name], max(_CELL_WIDTH, len(name))) + 2
        if width < 0 and kept:
            break
        kept.add(name)
    return [name for name in widths if name in kept]
