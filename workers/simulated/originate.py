"""The Originate action: its checks, its order, its immediate answer."""

import asyncio
import re

from workers.simulated.order import UNKNOWN, Order
from workers.simulated.received import Received, error, success
from workers.simulated.registry import action
from workers.simulated.session import Session

CALLER = re.compile(r'\s*"?([^"<]*?)"?\s*<([^>]*)>\s*$')


@action("Originate", "originate", synopsis="Originate a call.")
def originate(session: Session, action: Received) -> str | None:
    refusal = _refusal(action)
    if refusal:
        return error(action, refusal)
    order = _order(action)
    switch = session.asterisk.switch
    if action.is_true("Async"):
        # A thread of Asterisk places the call; none of its events precedes this answer.
        asyncio.get_running_loop().call_soon(switch.place, order)
        return success(action, "Originate successfully queued")

    def answered(was: bool) -> None:
        session.answer((success if was else error)(action, _said(was)))

    order.answered = answered
    asyncio.get_running_loop().call_soon(switch.place, order)
    return None


def split_variables(text: str) -> list[tuple[str, str]]:
    """`a=1,b=2` cut as Asterisk does: at commas outside quotes and brackets; quotes and backslashes go."""
    parts, part, depth, quoted, escaped = [], "", 0, False, False
    for character in text:
        if escaped:
            part, escaped = part + character, False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted and depth == 0:
            parts.append(part)
            part = ""
        else:
            depth += (character in "([") - (character in ")]")
            part += character
    pairs = [each.partition("=") for each in [*parts, part]]
    return [(name, value) for name, equals, value in pairs if equals]


def _said(answered: bool) -> str:
    return "Originate successfully queued" if answered else "Originate failed"


def _refusal(action: Received) -> str | None:
    """The Error texts that come before any dialling."""
    channel, timeout = action.get("Channel"), action.get("Timeout", "30000")
    if not channel:
        return "Channel not specified"
    if "/" not in channel.strip("/"):
        return "Invalid channel"
    if not timeout.isdigit():
        return "Invalid timeout"
    has_target = action.get("Application") or (action.get("Context") and action.get("Priority"))
    if not action.is_true("Async") and not has_target:
        return "Originate with 'Exten' requires 'Context' and 'Priority'"
    return None


def _order(action: Received) -> Order:
    caller = action.get("CallerID")
    match = CALLER.match(caller)
    name, number = (match[1], match[2]) if match else ("", caller)
    return Order(
        channel=action.get("Channel"),
        action_id=action.action_id,
        channel_id=action.get("ChannelId"),
        other_channel_id=action.get("OtherChannelId"),
        application=action.get("Application"),
        data=action.get("Data"),
        context=action.get("Context"),
        exten=action.get("Exten"),
        priority=action.get("Priority"),
        number=number or UNKNOWN,
        name=name or UNKNOWN,
        account=action.get("Account"),
        timeout_s=int(action.get("Timeout", "30000")) / 1000,
        variables=[pair for text in action.get_all("Variable") for pair in split_variables(text)],
    )
