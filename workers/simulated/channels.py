"""Actions on channels: lists, Hangup, Redirect, variables."""

import re
import time

from workers.simulated.calls import STATES, Leg
from workers.simulated.received import Received, block, error, identity, respond, success, with_list
from workers.simulated.registry import action
from workers.simulated.session import Session


@action("CoreShowChannels", "system", "reporting", synopsis="List currently active channels.")
def core_show_channels(session: Session, action: Received) -> str:
    items = [_core_show_channel(action, leg) for leg in session.asterisk.switch.legs]
    return with_list(action, "Channels will follow", items, "CoreShowChannelsComplete")


@action("Status", "system", "call", "reporting", synopsis="List channel status.")
def status(session: Session, action: Received) -> str:
    switch, name = session.asterisk.switch, action.get("Channel")
    legs = switch.legs
    if name:
        leg = switch.find(name)
        if leg is None:
            return error(action, "No such channel")
        legs = [leg]
    items = [_status(action, leg) for leg in legs]
    return with_list(action, "Channel status will follow", items, "StatusComplete", ("Items", len(items)))


@action("Hangup", "system", "call", synopsis="Hangup channel.")
def hangup(session: Session, action: Received) -> str:
    switch, name, given = session.asterisk.switch, action.get("Channel"), action.get("Cause", "0")
    cause = int(given) if given.isdigit() and int(given) < 128 else 0
    if not name:
        return error(action, "No channel specified")
    if len(name) > 2 and name.startswith("/") and name.endswith("/"):
        return _hang_up_matching(session, action, name[1:-1], cause)
    leg = switch.find(name)
    if leg is None:
        return error(action, "No such channel")
    leg.call.hang_up(leg, cause)
    return success(action, "Channel Hungup")


@action("Redirect", "call", synopsis="Redirect (transfer) a call.")
def redirect(session: Session, action: Received) -> str:
    name = action.get("Channel")
    if not name:
        return error(action, "Channel not specified")
    leg = session.asterisk.switch.find(name)
    if leg is None:
        return error(action, f"Channel does not exist: {name}")
    priority = action.get("Priority")
    if not priority.isdigit():
        return error(action, "Invalid priority")
    leg.call.redirect(leg, action.get("Context", leg.context), action.get("Exten"), int(priority))
    return success(action, "Redirect successful")


@action("Getvar", "call", "reporting", synopsis="Gets a channel variable or function value.")
def getvar(session: Session, action: Received) -> str:
    variable, name = action.get("Variable"), action.get("Channel")
    if not variable:
        return error(action, "No variable specified")
    value = session.asterisk.variables.get(variable, "")
    if name:
        leg = session.asterisk.switch.find(name)
        if leg is None:
            return error(action, "No such channel")
        value = (_built_in(leg) | leg.variables).get(variable, value)
    return respond(action, "Success", ("Variable", variable), ("Value", value))


@action("Setvar", "call", synopsis="Sets a channel variable or function value.")
def setvar(session: Session, action: Received) -> str:
    variable, value, name = action.get("Variable"), action.get("Value"), action.get("Channel")
    if not variable:
        return error(action, "No variable specified")
    if name:
        leg = session.asterisk.switch.find(name)
        if leg is None:
            return error(action, "No such channel")
        leg.call.set_variable(leg, variable, value)
    else:
        session.asterisk.set_global(variable, value)
    return success(action, "Variable Set")


def snapshot(leg: Leg) -> list[tuple[str, object]]:
    """The headers with which Asterisk describes a channel, in its order."""
    order = leg.call.order
    return [
        ("Channel", leg.channel),
        ("ChannelState", leg.state),
        ("ChannelStateDesc", STATES[leg.state]),
        ("CallerIDNum", order.number),
        ("CallerIDName", order.name),
        ("ConnectedLineNum", order.number),
        ("ConnectedLineName", order.name),
        ("Language", "en"),
        ("AccountCode", order.account),
        ("Context", leg.context),
        ("Exten", leg.exten),
        ("Priority", leg.priority),
        ("Uniqueid", leg.uniqueid),
        ("Linkedid", leg.call.legs[0].uniqueid),
    ]


def _hang_up_matching(session: Session, action: Received, pattern: str, cause: int) -> str:
    try:
        wanted = re.compile(pattern)
    except re.error:
        return error(action, "Regex format invalid")
    legs = [leg for leg in session.asterisk.switch.legs if wanted.search(leg.channel)]
    items = [block(("Event", "ChannelHungup"), ("Channel", leg.channel), *identity(action)) for leg in legs]
    for leg in legs:
        if not leg.call.is_over:
            leg.call.hang_up(leg, cause)
    return with_list(action, "Channels hung up will follow", items, "ChannelsHungupListComplete")


def _core_show_channel(action: Received, leg: Leg) -> str:
    seconds = int(time.time() - leg.call.placed_at)
    return block(
        ("Event", "CoreShowChannel"),
        *identity(action),
        *snapshot(leg),
        ("Application", leg.application),
        ("ApplicationData", leg.data),
        ("Duration", f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"),
        ("BridgeId", ""),
    )


def _status(action: Received, leg: Leg) -> str:
    return block(
        ("Event", "Status"),
        ("Privilege", "Call"),
        *snapshot(leg),
        ("Type", leg.call.order.technology),
        ("DNID", ""),
        ("EffectiveConnectedLineNum", leg.call.order.number),
        ("EffectiveConnectedLineName", leg.call.order.name),
        ("TimeToHangup", 0),
        ("BridgeID", ""),
        ("Application", leg.application),
        ("Data", leg.data),
        ("Nativeformats", "(slin)"),
        ("Readformat", "slin"),
        ("Readtrans", ""),
        ("Writeformat", "slin"),
        ("Writetrans", ""),
        ("Callgroup", 0),
        ("Pickupgroup", 0),
        ("Seconds", int(time.time() - leg.call.placed_at)),
        *identity(action),
    )


def _built_in(leg: Leg) -> dict[str, str]:
    return {
        "CHANNEL": leg.channel,
        "UNIQUEID": leg.uniqueid,
        "CONTEXT": leg.context,
        "EXTEN": leg.exten,
        "PRIORITY": str(leg.priority),
    }
