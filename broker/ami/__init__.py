"""The Asterisk Manager Interface without I/O: bytes in, messages out, and what is known of each action.

Standard library only. `Protocol` reads and writes the bytes of one session, `Login` opens it, `InFlight`
finds out which message answers which action, the catalog and `risks_of` tell what an action does and what is
dangerous in it.
"""

from broker.ami.catalog import ActionSpec, all_actions, lookup, origin_of, spec_of, unknown_spec
from broker.ami.errors import AMIError, LocalProtocolError, LoginRefused, RemoteProtocolError
from broker.ami.in_flight import Answer, Exchange, InFlight
from broker.ami.login import Login
from broker.ami.message import Action, Event, Headers, Message, RawText, Response
from broker.ami.protocol import MAX_MESSAGE_BYTES, Protocol
from broker.ami.risk import (
    DANGEROUS_APPLICATIONS,
    DANGEROUS_FUNCTIONS,
    Risk,
    dangerous_application,
    dangerous_functions_in,
    is_regex_channel,
    is_show_command,
    reads_function,
    risks_of,
)
from broker.ami.secrecy import MASKED_HEADERS, SENSITIVE_EVENTS, is_secret_name, mask
from broker.ami.serialise import MAX_HEADERS, MAX_LINE_BYTES, serialise

__all__ = [
    "DANGEROUS_APPLICATIONS",
    "DANGEROUS_FUNCTIONS",
    "MASKED_HEADERS",
    "MAX_HEADERS",
    "MAX_LINE_BYTES",
    "MAX_MESSAGE_BYTES",
    "SENSITIVE_EVENTS",
    "AMIError",
    "Action",
    "ActionSpec",
    "Answer",
    "Event",
    "Exchange",
    "Headers",
    "InFlight",
    "LocalProtocolError",
    "Login",
    "LoginRefused",
    "Message",
    "Protocol",
    "RawText",
    "RemoteProtocolError",
    "Response",
    "Risk",
    "all_actions",
    "dangerous_application",
    "dangerous_functions_in",
    "is_regex_channel",
    "is_secret_name",
    "is_show_command",
    "lookup",
    "mask",
    "origin_of",
    "reads_function",
    "risks_of",
    "serialise",
    "spec_of",
    "unknown_spec",
]
