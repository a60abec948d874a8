"""What the commands have in common that ask Asterisk something: their options, the asking, how they end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from broker.errors import ActionUnknown, ResultTimeout
from workers.cli.failures import UNKNOWN, Failure
from workers.cli.open_bus import open_bus
from workers.cli.options import client_options, client_settings
from workers.cli.output import Cell, Output
from workers.cli.presence import ended, notice_absence
from workers.cli.running import run
from workers.config import Settings

if TYPE_CHECKING:
    from broker import Server
    from broker.telephony import Options

WAIT_S: Final = 30.0

SENT_WITHIN: Final = 0.95
"""The part of --wait in which an action must have been sent."""

T = TypeVar("T")
_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Question:
    """Whom to ask, how long to wait for the answer, and where it is shown."""

    settings: Settings
    server: str
    wait_s: float
    output: Output

    def ask(self, work: Callable[["Server"], Awaitable[T]]) -> T:
        """What this work on the server gives. Raises `Failure`, of exit code 3 where nobody knows what became of it."""
        try:
            return run(self._ask(work))
        except ActionUnknown as error:
            raise Failure(str(error), UNKNOWN) from None
        except ResultTimeout as error:
            sentence = f"no result of {error.action_id} within {error.timeout_s:g} s"
            raise Failure(f"{sentence}; if it has not been sent by now, it never is", UNKNOWN) from None

    @property
    def options(self) -> "Options":
        """For each action: what nobody waits for any more must not happen late. The deadline comes a little sooner, so
        that what it ended is told."""
        return {"timeout": self.wait_s, "deadline": f"+{self.wait_s * SENT_WITHIN:.3f}"}

    def show(
        self, found: Sequence[T], nothing: str, columns: Sequence[str], row: Callable[[T], Sequence[Cell]]
    ) -> None:
        """What was found, as a table or as JSON; `nothing` tells a person that it is nothing."""
        if self.output.as_json:
            for each in found:
                self.output.object(plain(each))
        else:
            self.output.table(columns, [row(each) for each in found], nothing)

    async def _ask(self, work: Callable[["Server"], Awaitable[T]]) -> T:
        async with open_bus(self.settings.redis, self.settings.prefix, self.wait_s) as bus:
            pbx = bus.server(self.server)
            notice = asyncio.create_task(notice_absence(pbx))
            try:
                return await work(pbx)
            finally:
                await ended(notice)


def question(server: str, given: Mapping[str, Any]) -> Question:
    """From what `asking_options` have added."""
    settings = client_settings(given["redis"], given["prefix"], given["config"])
    return Question(settings, server, given["wait_s"], Output(as_json=given["as_json"]))


def asking_options(command: _Command) -> _Command:
    """`--wait`, `--json`, and where the bus is: the last options of a command."""
    command = client_options(command)
    command = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(command)
    return click.option(
        "--wait", "wait_s", type=click.FloatRange(min=0, min_open=True), default=WAIT_S, show_default=True,
        metavar="S", help="Seconds to wait for the answer; what is not sent by then never is.",
    )(command)  # fmt: skip


def plain(value: Any) -> Any:
    """A value of the client as JSON has it: its fields, without the headers that they were read from."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value) if each.name != "headers"}
    return value


def person(name: str, number: str) -> str:
    """A caller as people write it."""
    return f"{name} <{number}>" if name and number else name or number


def place(exten: str, context: str) -> str:
    """Where in the dialplan."""
    return f"{exten}@{context}" if exten else ""


def flag(value: bool, word: str, style: str = "yellow") -> Cell:
    """A word where something is the case."""
    return (word, style) if value else ""


def split_place(text: str, context: str = "default") -> tuple[str, str]:
    """EXTEN@CONTEXT, or EXTEN in the default context."""
    exten, found, given_context = text.rpartition("@")
    if not found:
        return text, context
    if not exten or not given_context:
        raise click.UsageError(f"{text!a} is not EXTEN@CONTEXT")
    return exten, given_context
