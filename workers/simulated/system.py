"""Actions on the whole system: Ping, settings, the database, states, UserEvent."""

import time

from workers.simulated.received import Received, block, error, identity, respond, success, with_list
from workers.simulated.registry import ACTIONS, action
from workers.simulated.session import Session


@action("Ping", synopsis="Keepalive command.")
def ping(session: Session, action: Received) -> str:
    return respond(action, "Success", ("Ping", "Pong"), ("Timestamp", f"{time.time():.6f}"))


@action("IAXnetstats", "system", "reporting", synopsis="Show IAX Netstats.")
def iax_netstats(session: Session, action: Received) -> str:
    # No Response: a table of the calls by IAX, of which there are none, and a blank line.
    return "\r\n"


@action("CoreSettings", "system", "reporting", synopsis="Show PBX core settings (version etc).")
def core_settings(session: Session, action: Received) -> str:
    asterisk = session.asterisk
    return respond(
        action,
        "Success",
        ("AMIversion", "11.0.0"),
        ("AsteriskVersion", f"{asterisk.version} (simulated by amibus)"),
        ("SystemName", asterisk.system_name),
        ("CoreMaxCalls", 0),
        ("CoreMaxLoadAvg", "0.000000"),
        ("CoreRunUser", ""),
        ("CoreRunGroup", ""),
        ("CoreMaxFilehandles", 0),
        ("CoreRealTimeEnabled", "No"),
        ("CoreCDRenabled", "No"),
        ("CoreHTTPenabled", "No"),
        ("SoundsSearchCustomDir", "No"),
    )


@action("CoreStatus", "system", "reporting", synopsis="Show PBX core status variables.")
def core_status(session: Session, action: Received) -> str:
    asterisk = session.asterisk
    started = time.localtime(asterisk.started_at)
    date, clock = time.strftime("%Y-%m-%d", started), time.strftime("%H:%M:%S", started)
    return respond(
        action,
        "Success",
        ("CoreStartupDate", date),
        ("CoreStartupTime", clock),
        ("CoreReloadDate", date),
        ("CoreReloadTime", clock),
        ("CoreCurrentCalls", len(asterisk.switch.live)),
        ("CoreProcessedCalls", asterisk.switch.processed),
    )


@action("ListCommands", synopsis="List available manager commands.")
def list_commands(session: Session, action: Received) -> str:
    known = sorted(ACTIONS.values(), key=lambda each: each.name.lower())
    return respond(action, "Success", *[(each.name, f"{each.synopsis}  (Priv: {each.privilege})") for each in known])


@action("UserEvent", "user", synopsis="Send an arbitrary event.")
def user_event(session: Session, action: Received) -> str:
    own = [(name, value) for name, value in action.headers if name.lower() not in ("action", "userevent")]
    session.asterisk.tell("UserEvent", "user", ("UserEvent", action.get("UserEvent")), *own)
    return success(action, "Event Sent")


@action("DBPut", "system", synopsis="Put DB entry.")
def db_put(session: Session, action: Received) -> str:
    key = action.get("Family"), action.get("Key")
    if not all(key):
        return error(action, f"No {'family' if not key[0] else 'key'} specified")
    session.asterisk.database[key] = action.get("Val")
    return success(action, "Updated database successfully")


@action("DBGet", "system", "reporting", synopsis="Get DB Entry.")
def db_get(session: Session, action: Received) -> str:
    family, key = action.get("Family"), action.get("Key")
    if not family or not key:
        return error(action, f"No {'family' if not family else 'key'} specified.")
    value = session.asterisk.database.get((family, key))
    if value is None:
        return error(action, "Database entry not found")
    pairs = ("Event", "DBGetResponse"), ("Family", family), ("Key", key), ("Val", value)
    return with_list(action, "Result will follow", [block(*pairs, *identity(action))], "DBGetComplete")


@action("DBDel", "system", synopsis="Delete DB entry.")
def db_del(session: Session, action: Received) -> str:
    key = action.get("Family"), action.get("Key")
    if not all(key):
        return error(action, f"No {'family' if not key[0] else 'key'} specified.")
    if session.asterisk.database.pop(key, None) is None:
        return error(action, "Database entry could not be deleted")
    return success(action, "Key deleted successfully")


@action("ExtensionState", "call", "reporting", synopsis="Check Extension Status.")
def extension_state(session: Session, action: Received) -> str:
    exten, context = action.get("Exten"), action.get("Context", "default")
    if not exten:
        return error(action, "Extension not specified")
    in_use = any(leg.exten == exten and leg.context == context for leg in session.asterisk.switch.legs)
    hint = f"Local/{exten}@{context}" if exten.isdigit() else ""
    state, text = (1, "InUse") if in_use else (0, "Idle") if hint else (-1, "Unknown")
    return respond(
        action,
        "Success",
        ("Message", "Extension Status"),
        ("Exten", exten),
        ("Context", context),
        ("Hint", hint),
        ("Status", state),
        ("StatusText", text),
    )


@action("MailboxCount", "call", "reporting", synopsis="Check Mailbox Message Count.")
def mailbox_count(session: Session, action: Received) -> str:
    counts = ("UrgMessages", 0), ("NewMessages", 0), ("OldMessages", 0)
    return _mailbox(action, "Mailbox Message Count", *counts)


@action("MailboxStatus", "call", "reporting", synopsis="Check mailbox.")
def mailbox_status(session: Session, action: Received) -> str:
    return _mailbox(action, "Mailbox Status", ("Waiting", 0))


def _mailbox(action: Received, message: str, *pairs: tuple[str, object]) -> str:
    mailbox = action.get("Mailbox")
    if not mailbox:
        return error(action, "Mailbox not specified")
    return respond(action, "Success", ("Message", message), ("Mailbox", mailbox), *pairs)
