"""`amibus redirect`: send a live call elsewhere."""

from typing import TYPE_CHECKING, Any

import click

from broker.errors import ActionFailed
from workers.cli.asking import Question, asking_options, question, split_place
from workers.cli.failures import Failure
from workers.cli.names import server_argument

if TYPE_CHECKING:
    from broker import Server


@click.command()
@server_argument()
@click.argument("channel")
@click.argument("to", metavar="EXTEN[@CONTEXT]")
@click.option("--priority", default="1", show_default=True, metavar="N|LABEL", help="Where in the extension.")
@click.option("--other", metavar="CHANNEL", help="A second channel, such as its other leg, to move at once.")
@click.option("--other-to", metavar="EXTEN[@CONTEXT]", help="Where the other one goes.  [default: to the same place]")
@asking_options
def redirect(
    server: str, channel: str, to: str, priority: str, other: str | None, other_to: str | None, **given: Any
) -> None:
    """Send a live channel to an extension of the dialplan: a phone, a conference, a queue, an outside line.

    Channels are given by their name or Uniqueid; quote those of Local channels, which hold a semicolon. The context is
    `default` unless given. To a number that the dialplan does not have nothing is sent: Asterisk would hang it up.

    \b
    Examples:
      amibus redirect pbx1 PJSIP/100-0000002a 600@conferences
      amibus redirect pbx1 PJSIP/100-0000002a 600@conferences --other PJSIP/200-0000002b

    \b
    Exit codes:
      0  on its way
      1  there is no such channel or extension, or it was refused
      2  wrong use
      3  nobody knows, or no answer in time
    """
    if other_to is not None and other is None:
        raise click.UsageError("--other-to is for the channel of --other")
    asked = question(server, given)
    exten, context = split_place(to)
    other_exten, other_context = (None, None) if other_to is None else split_place(other_to)

    async def move(pbx: "Server") -> None:
        await _look(pbx, asked, (exten, context, priority), channel)
        if other is not None:
            there = (exten, context, priority) if other_exten is None else (other_exten, other_context or context, "1")
            await _look(pbx, asked, there, other)
        await pbx.redirect(
            channel, exten, context, priority, other=other, other_exten=other_exten, other_context=other_context,
            **asked.options,
        )  # fmt: skip

    asked.ask(move)
    if asked.output.as_json:
        asked.output.object({"redirected": channel, "exten": exten, "context": context, "other": other})
    else:
        asked.output.line(("redirected", "green"), (channel, "bold"), other or "", f"to {exten}@{context}")


async def _look(pbx: "Server", asked: Question, there: tuple[str, str, str], channel: str) -> None:
    """Asterisk would not: a call that is sent to a mistyped number is hung up."""
    exten, context, priority = there
    try:
        found = await pbx.has_extension(exten, context, priority, channel=channel, **asked.options)
    except ActionFailed:
        return  # there is no such channel, and Redirect says so
    if found is False:
        at = "" if priority == "1" else f" at priority {priority}"
        raise Failure(f"the dialplan has no {exten}@{context}{at}: {channel} was left where it is")
