"""An event for people: when, what, and the headers that tell most."""

import datetime
from typing import Any, Final

from broker.ami import Headers
from broker.codec import BusEvent, event_map
from broker.entry import entry_time
from workers.cli.output import Cell, Output

MAX_FACTS: Final = 6

_TELLING: Final = (
    "Channel", "Uniqueid", "DestChannel", "CallerIDNum", "ConnectedLineNum", "Context", "Exten", "ChannelStateDesc",
    "DialStatus", "Response", "Reason", "Cause-txt", "Queue", "Interface", "MemberName", "Peer", "PeerStatus", "Device",
    "State", "BridgeUniqueid", "Mailbox", "AccountCode", "Status",
)  # fmt: skip
"""Of any event these headers are shown first, in this order."""

_TELLING_OF: Final = {
    "Newchannel": ("Channel", "ChannelStateDesc", "Context", "Exten", "CallerIDNum", "Uniqueid"),
    "Newstate": ("Channel", "ChannelStateDesc", "CallerIDNum", "ConnectedLineNum", "Uniqueid"),
    "VarSet": ("Channel", "Variable", "Value"),
    "Newexten": ("Channel", "Exten", "Priority", "Application", "AppData"),
    "DialBegin": ("Channel", "DestChannel", "DialString"),
    "DialState": ("Channel", "DestChannel", "DialStatus"),
    "DialEnd": ("Channel", "DestChannel", "DialStatus"),
    "Hangup": ("Channel", "Uniqueid", "CallerIDNum", "Cause", "Cause-txt"),
    "OriginateResponse": ("Response", "Channel", "Exten", "Application", "Reason", "Uniqueid"),
    "LocalBridge": ("LocalOneChannel", "LocalTwoChannel"),
    "UserEvent": ("UserEvent", "Channel"),
    "Cdr": ("Source", "Destination", "Channel", "Disposition", "Duration", "BillableSeconds"),
    "RTCPSent": ("Channel", "To", "From"),
    "RTCPReceived": ("Channel", "To", "From"),
}

_ENVELOPE: Final = frozenset(("event", "privilege", "actionid", "timestamp", "systemname", "sequencenumber"))


def facts(name: str, headers: Headers) -> list[tuple[str, str]]:
    """The headers that tell most of an event, without empty ones."""
    wanted = _TELLING_OF.get(name) or _TELLING
    found = [(header, value) for header in wanted if (value := headers.get(header, "")) not in ("", "<unknown>")]
    if not found or name.startswith("Bus"):
        found = [(header, value) for header, value in headers if header.lower() not in _ENVELOPE and value]
    return found[:MAX_FACTS]


def moment(event: BusEvent, *, brief: bool) -> str:
    """When the event was put on the stream, by Redis' clock and in the local time zone."""
    if event.id is None:
        return ""
    time = datetime.datetime.fromtimestamp(entry_time(event.id)).astimezone()
    return time.strftime("%H:%M:%S.%f")[:-3] if brief else time.isoformat(timespec="milliseconds")


def show_event(output: Output, event: BusEvent) -> None:
    """One event on one line."""
    if output.as_json:
        output.object(event_object(event))
        return
    ours = event.name.startswith("Bus")
    cells: list[Cell] = [
        (moment(event, brief=output.terminal), "dim"),
        (event.name, "bold red" if ours else "bold cyan"),
        *[f"{name}={_quoted(value)}" for name, value in facts(event.name, event.headers)],
        (f"[{', '.join(event.action_ids)}]" if event.action_ids else "", "magenta"),
    ]
    output.line(*cells)


def event_object(event: BusEvent) -> dict[str, Any]:
    """The `event` message of the contract, with the id of its stream entry where that is known."""
    message = event_map(event)
    return message if event.id is None else {**message, "id": event.id}


def _quoted(value: str) -> str:
    return f'"{value}"' if not value or " " in value else value
