"""What each action is: the 154 actions of Asterisk 22, from `actions.tsv`, read when first asked for."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal, cast

Effect = Literal["read-only", "state-changing", "session"]
Retry = Literal["yes", "conditional", "no"]
RiskKind = Literal["", "code", "secrets", "session"]
Shape = Literal["single", "single+event", "list", "list-past-error", "two-responses", "raw-text"]
"""How an action answers when it succeeds; `EventList: start` in the actual response makes a list of any.

- `single`: one response
- `single+event`: one response, then one event with the ActionID (FAXStats, FAXSession)
- `list`: a response, items, an event with `EventList: Complete`; an Error after the start ends it, too
  (CoreShowChannelMap)
- `list-past-error`: a list that goes on to its end after an Error (PJSIPShowEndpoint)
- `two-responses`: an acknowledgement, then the result (JabberSend)
- `raw-text`: a table without any header (IAXnetstats)
"""

SUCCESS_MAY_BE_FAILURE: Final = frozenset(
    ("voicemailmove", "voicemailremove", "voicemailforward", "pjsipregister", "pjsipunregister")
)
"""Actions that answer Success with a text such as 'Message move failed' (app_voicemail.c,
res_pjsip_outbound_registration.c)."""


_UP_TO_20: Final = {
    "res_monitor.so": ("monitor", "stopmonitor", "changemonitor", "pausemonitor", "unpausemonitor"),
    "chan_sip.so": ("sippeers", "sipshowpeer", "sipqualifypeer", "sipshowregistry", "sipnotify", "sippeerstatus"),
    "chan_skinny.so": ("skinnydevices", "skinnyshowdevice", "skinnylines", "skinnyshowline"),
}
"""Actions of modules that Asterisk 21 no longer has."""


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What is known of an action (the source of Asterisk 22; 16 to 23 differ only in which actions there are)."""

    name: str
    """As Asterisk spells it; it takes any case."""
    module: str
    """The module that brings it, or 'core'."""
    privileges: tuple[str, ...]
    """The classes of `write=` of which the AMI user needs one; none needed if empty."""
    effect: Effect
    shape: Shape
    item_events: tuple[str, ...]
    """The names of a list's items."""
    terminator: str
    """The name of a list's last event; to be told by its `EventList: Complete`, not by this."""
    retry: Retry
    """Whether it may be sent again when nobody knows if it was executed: 'yes' ends in the same state without
    a second effect."""
    risk: RiskKind
    """'code': as good as running code or rewriting what runs. 'secrets': reads secrets. 'session': belongs to
    the session's owner."""
    risk_reason: str = ""

    @property
    def reads_only(self) -> bool:
        """Whether it changes nothing; it may be slow, and take locks, all the same."""
        return self.effect == "read-only"


def lookup(name: str) -> ActionSpec | None:
    """The action of that name, in whatever case; None for one that is not of Asterisk 22."""
    return _by_lowered_name().get(name.lower())


def unknown_spec(name: str) -> ActionSpec:
    """What must be assumed of an action that is not in the catalog: it changes something, and never twice."""
    return ActionSpec(name, "", (), "state-changing", "single", (), "", "no", "")


def spec_of(name: str) -> ActionSpec:
    """The catalog's entry, or `unknown_spec`."""
    return lookup(name) or unknown_spec(name)


def origin_of(name: str) -> str | None:
    """Where an action comes from, for a person whose Asterisk does not have it; None if nothing is known of it."""
    spec = lookup(name)
    if spec is not None:
        return "newer versions of Asterisk" if spec.module == "core" else f"module {spec.module}"
    gone = (module for module, names in _UP_TO_20.items() if name.lower() in names)
    return next((f"module {module} of Asterisk up to 20" for module in gone), None)


def all_actions() -> tuple[ActionSpec, ...]:
    """All actions of the catalog, by name."""
    return tuple(_by_lowered_name().values())


@cache
def _by_lowered_name() -> dict[str, ActionSpec]:
    text = resources.files(__package__).joinpath("actions.tsv").read_text(encoding="utf-8")
    specs = [_spec(line) for line in text.splitlines()[1:]]
    return {spec.name.lower(): spec for spec in specs}


def _spec(line: str) -> ActionSpec:
    name, module, privileges, effect, shape, items, terminator, retry, risk, reason = line.split("\t")
    return ActionSpec(
        name=name,
        module=module,
        privileges=_split(privileges),
        effect=cast(Effect, effect),
        shape=cast(Shape, shape),
        item_events=_split(items),
        terminator=terminator,
        retry=cast(Retry, retry),
        risk=cast(RiskKind, risk),
        risk_reason=reason,
    )


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("|")) if text else ()
