"""What an Originate asks for, and what is said when it is settled."""

from collections.abc import Callable
from dataclasses import dataclass, field

from workers.simulated.received import block

UNKNOWN = "<unknown>"
"""What Asterisk shows for a caller without number or name."""

Outcome = Callable[[bool], None]


@dataclass
class Order:
    """What an Originate asks for."""

    channel: str
    """As requested: technology, slash, data."""
    action_id: str | None = None
    channel_id: str = ""
    other_channel_id: str = ""
    application: str = ""
    data: str = ""
    context: str = ""
    exten: str = ""
    priority: str = ""
    number: str = UNKNOWN
    name: str = UNKNOWN
    account: str = ""
    timeout_s: float = 30.0
    variables: list[tuple[str, str]] = field(default_factory=list)
    answered: Outcome | None = None
    """A synchronous Originate's: told whether the call was answered, and no OriginateResponse is sent."""

    @property
    def technology(self) -> str:
        return self.channel.partition("/")[0]

    @property
    def dialled(self) -> tuple[str, str]:
        """Extension and context that the channel's data name."""
        exten, _, context = self.channel.partition("/")[2].partition("/")[0].partition("@")
        return exten, context or "default"

    def response(self, channel: str, uniqueid: str, reason: int) -> str:
        """The headers of OriginateResponse that depend on the outcome, in Asterisk's order."""
        target = [("Application", self.application), ("Data", self.data)]
        if not self.application:
            target = [("Context", self.context), ("Exten", self.exten)]
        text = block(
            *([] if self.action_id is None else [("ActionID", self.action_id)]),
            ("Response", "Success" if reason == 4 else "Failure"),
            ("Channel", channel),
            *target,
            ("Reason", reason),
            ("Uniqueid", uniqueid),
            ("CallerIDNum", self.number),
            ("CallerIDName", self.name),
        )
        return text.removesuffix("\r\n\r\n")
