"""`amibus call`: place a call and watch it, live."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import click
from click.exceptions import Exit

from workers.cli.asking import asking_options, place, question, split_place
from workers.cli.names import server_argument
from workers.cli.output import Output
from workers.cli.presence import ended

if TYPE_CHECKING:
    from broker import Bridge, Call, CallOutcome, Server

RING_S: Final = 30.0
"""Asterisk's own limit of the ringing."""

_STYLES: Final = {
    "ringing": "yellow", "answered": "bold green", "bridged": "green", "hung up": "bold",
    "busy": "bold red", "no answer": "bold red", "congestion": "bold red", "failed": "bold red",
}  # fmt: skip


@click.command()
@server_argument()
@click.argument("channel")
@click.argument("to", metavar="EXTEN[@CONTEXT]", required=False)
@click.option("--application", metavar="NAME", help="Connect it to a dialplan application instead of an extension.")
@click.option("--data", metavar="TEXT", help="The application's arguments.")
@click.option("--priority", default="1", show_default=True, metavar="N|LABEL", help="Where in the extension.")
@click.option("--caller-number", metavar="NUMBER", help="The number that the phone shows.")
@click.option("--caller-name", metavar="NAME", help="The name that the phone shows.")
@click.option("--ring", "ring_s", type=click.FloatRange(min=0, min_open=True), metavar="S",
              help="Seconds that it may ring.  [default: Asterisk's 30]")  # fmt: skip
@click.option("--variable", "variables", multiple=True, metavar="NAME=VALUE", help="A channel variable; repeatable.")
@click.option("--account", metavar="CODE", help="Its account code.")
@click.option("--action-id", metavar="ID", help="Its identity: repeating it never places a second call.")
@asking_options
def call(
    server: str, channel: str, to: str | None, application: str | None, variables: tuple[str, ...], priority: str,
    **given: Any,
) -> None:  # fmt: skip
    """Dial a channel and connect it to an extension; show the call as it goes, and how it ended.

    It waits for an answer as long as the call may ring and --wait seconds more, and then as long as the call lasts.
    Ctrl-C ends the watching, not the call.

    \b
    Examples:
      amibus call pbx1 PJSIP/100 200@internal --caller-number 200
      amibus call pbx1 Local/100@default --application Playback --data hello-world
      amibus call pbx1 PJSIP/100 200@internal --json | jq -r .event

    \b
    Exit codes:
      0  it was answered, and is over
      1  busy, no answer, congestion, failed, or refused
      2  wrong use
      3  nobody knows what became of it, or it was not known in time
    """
    if (to is None) is (application is None):
        raise click.UsageError("give either EXTEN[@CONTEXT] or --application")
    exten, context = (None, "default") if to is None else split_place(to)
    asked = question(server, given)
    dialling = {
        "exten": exten, "context": context, "priority": priority, "application": application,
        "variables": dict(_variable(text) for text in variables),
        **{name: given[name] for name in ("data", "caller_number", "caller_name", "ring_s", "account", "action_id")},
    }  # fmt: skip

    async def watch(pbx: "Server") -> int:
        placed = await pbx.originate(channel, **asked.options, **dialling)
        async with placed:
            where = application or place(exten or "", context)
            patience_s = asked.wait_s + (given["ring_s"] or RING_S)
            try:
                return await Watching(placed, asked.output, patience_s).run(channel, where)
            except asyncio.CancelledError:
                click.echo(f"amibus: the call goes on; to end it: amibus hangup {server} {placed.uniqueid}", err=True)
                raise

    raise Exit(asked.ask(watch))


def _variable(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise click.UsageError(f"{text!a} is not NAME=VALUE")
    return name, value


class Watching:
    """Tells of one call, step by step, with the seconds since it was asked for."""

    def __init__(self, call: "Call", output: Output, patience_s: float) -> None:
        self._call = call
        self._output = output
        self._patience_s = patience_s
        self._began_at = time.monotonic()

    async def run(self, channel: str, where: str) -> int:
        """Tell until the call is over; the exit code."""
        self._tell("dialling", f"{channel} for {where}", channel=channel, action_id=self._call.action_id)
        ringing = asyncio.create_task(self._watch_ringing())
        try:
            outcome = await self._call.answered(self._patience_s)
            await ended(ringing)
            if not outcome.is_answered:
                self._tell_failure(outcome)
                return 1
            self._tell("answered", outcome.channel, uniqueid=outcome.uniqueid, channel=outcome.channel)
            bridge = await self._call.bridged()
            if bridge is not None:
                self._tell_bridge(bridge)
            outcome = await self._call.ended()
            self._tell("hung up", _cause(outcome), cause=outcome.cause, cause_text=outcome.cause_text)
        finally:
            await ended(ringing)
        return 0

    async def _watch_ringing(self) -> None:
        async for event in self._call.events():
            if event.name == "Newstate" and event.headers.get("ChannelStateDesc") == "Ringing":
                name = event.headers.get("Channel", "")
                self._tell("ringing", name, uniqueid=event.headers.get("Uniqueid", ""), channel=name)

    def _tell_bridge(self, bridge: "Bridge") -> None:
        legs = [leg for leg in self._call.legs if leg.uniqueid in bridge.legs]
        text = ", ".join([leg.channel for leg in legs])
        self._tell("bridged", text, bridge_id=bridge.bridge_id, channels=bridge.channels)

    def _tell_failure(self, outcome: "CallOutcome") -> None:
        fields = {
            "reason": outcome.reason, "cause": outcome.cause, "cause_text": outcome.cause_text,
            "message": outcome.message,
        }  # fmt: skip
        self._tell(str(outcome.disposition), why_it_failed(outcome), **fields)

    def _tell(self, event: str, text: str, **fields: Any) -> None:
        after_s = time.monotonic() - self._began_at
        if self._output.as_json:
            self._output.object({"event": event, "after_s": round(after_s, 3), **fields})
        else:
            self._output.line((f"{after_s:7.2f} s", "dim"), (f"{event:<10}", _STYLES.get(event, "")), text)


def why_it_failed(outcome: "CallOutcome") -> str:
    """The cause, where it tells anything; else Asterisk's or the worker's words."""
    return _cause(outcome) if outcome.cause else outcome.message.removeprefix("the call failed: ") or _cause(outcome)


def _cause(outcome: "CallOutcome") -> str:
    if outcome.cause is None:
        return "nobody saw why"
    if not outcome.cause:
        return "no cause given"
    return f"{outcome.cause_text or 'cause'} ({outcome.cause})"
