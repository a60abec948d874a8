"""What a soak asks for: every kind of action and of outcome, in fixed parts."""

from collections.abc import Iterator
from typing import Final

Fields = list[str]

PRODUCERS: Final = ("crm", "dialler", "wallboard")

CALL: Final = ["Application", "Wait", "Data", "0"]

PARTS: Final[tuple[tuple[int, Fields], ...]] = (
    (40, ["Action", "Ping"]),
    (4, ["Action", "Getvar", "Variable", "x"]),
    (2, ["Action", "CoreShowChannels"]),
    (2, ["Action", "Getvar", "Variable", "CALLERID(num)"]),
    (28, ["Action", "Setvar", "Variable", "x", "Value", "1"]),
    (10, ["Action", "UserEvent", "UserEvent", "soak", "Part", "1"]),
    (4, ["Action", "Originate", "Channel", "Local/100@default", *CALL]),
    (2, ["Action", "Originate", "Channel", "Local/busy@default", *CALL]),
    (1, ["Action", "Originate", "Channel", "Local/nobody@nowhere", *CALL]),
    (3, ["Action", "Hangup", "Channel", "PJSIP/nobody"]),
    (2, ["Action", "Setvar", "Variable", "x", "Value", "late", "Bus-Deadline", "1"]),
    (1, ["Action", "Ping", "Bus-Nonsense", "x"]),
    (1, ["Action", "Command", "Command", "core show version"]),
)
"""Of 100 actions so many are these. Written are all but what is late, malformed, or not allowed (Command)."""

READS: Final = ("Ping", "CoreShowChannels", "CoreSettings", "Getvar")
"""What may be written twice."""

CYCLE: Final = [fields for part, fields in PARTS for _ in range(part)]
STRIDE: Final = 37
"""Has no divisor in common with the length of the cycle: neighbours in the queue are of different kinds."""


def actions(count: int) -> Iterator[tuple[str, Fields]]:
    """ActionID and fields of so many; every 50th is queued twice, so that there are duplicates."""
    for number in range(count):
        fields = CYCLE[number * STRIDE % len(CYCLE)]
        action_id = f"s{number - number % 50 if number % 50 == 1 else number}"
        if number % 50 == 1:
            fields = CYCLE[(number - 1) * STRIDE % len(CYCLE)]
        yield action_id, [*fields, "ActionID", action_id, "Bus-Producer", PRODUCERS[number % len(PRODUCERS)]]
