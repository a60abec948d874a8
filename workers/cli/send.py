"""`amibus send`: put one action on the queue, and show what becomes of it."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click
from click.exceptions import Exit

from broker.keys import Keys
from workers.cli.failures import UNKNOWN, Failure
from workers.cli.names import action_argument, server_argument
from workers.cli.open_bus import open_bus
from workers.cli.options import client_options, client_settings
from workers.cli.output import Output
from workers.cli.presence import ended, notice_absence
from workers.cli.running import run

if TYPE_CHECKING:
    from broker import Call, Result, Server
    from workers.config import Settings

_SEPARATOR: Final = re.compile(r"=|:[ \t]?")
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_NEAR: Final = 1e9
"""A deadline below is no unix time (that was in 2001): it is meant in seconds from now."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for."""

    action: str
    headers: list[tuple[str, str]]
    wait_s: float
    options: dict[str, Any] = field(default_factory=dict)
    """Of the client's `submit`."""


@click.command()
@server_argument()
@action_argument
@click.argument("headers", nargs=-1, metavar="[HEADER=VALUE]...")
@click.option("--wait", "wait_s", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              metavar="S", help="Seconds to wait for the result.")  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Only put it on the queue, and print its ActionID.")
@click.option("--follow", is_flag=True, help="Show the events of the action until its call is over.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: the messages of the contract.")
@click.option("--urgent", is_flag=True, help="Use the lane that is served first.")
@click.option("--action-id", metavar="ID", help="Its identity: repeating it is harmless.  [default: a new one]")
@click.option(
    "--deadline", metavar="+S|TIME", help="Not to be sent after so many seconds, or this unix time.  [default: +1800]"
)
@click.option(
    "--answer-timeout", type=float, metavar="S", help="Seconds for Asterisk to answer, once sent.  [default: 30]"
)
@click.option("--producer", metavar="NAME", help="Who asks (Bus-Producer).")
@click.option("--tag", metavar="TEXT", help="Handed back with the result (Bus-Tag).")
@client_options
def send(
    server: str, action: str, headers: tuple[str, ...], wait_s: float, no_wait: bool, follow: bool, as_json: bool,
    redis: str | None, prefix: str | None, config: str | None, **options: Any,
) -> None:  # fmt: skip
    """Send an AMI action and wait for its result.

    Headers are Header=Value, or 'Header: Value' as AMI has it; a header given twice is sent twice. With --follow the
    command goes on after the result, until the last channel of the call has hung up.

    \b
    Examples:
      amibus send pbx1 Ping
      amibus send pbx1 QueueAdd Queue=support Interface=PJSIP/100 --deadline +10
      amibus send pbx1 Originate Channel=PJSIP/100 Application=Echo Variable=a=1 Variable=b=2 --follow
      amibus send pbx1 CoreShowChannels --json | jq '.events[].Channel'

    \b
    Exit codes:
      0  done (with --no-wait: queued)
      1  failed, rejected, expired or cancelled; or it never got onto the queue
      2  wrong use
      3  unknown, or no result in time: it may have been, or may still be, executed
    """
    if no_wait and follow:
        raise click.UsageError("--no-wait and --follow exclude each other")
    options["deadline"] = _deadline(options["deadline"])
    order = Order(action=action, headers=[_header(text) for text in headers], wait_s=wait_s, options=options)
    settings = client_settings(redis, prefix, config)
    output = Output(as_json=as_json)
    raise Exit(run(_send(settings, server, order, output, wait=not no_wait, follow=follow)))


def _header(text: str) -> tuple[str, str]:
    found = _SEPARATOR.search(text)
    if found is None or found.start() == 0:
        raise click.UsageError(f"{text!a} is neither Header=Value nor 'Header: Value'")
    return text[: found.start()], text[found.end() :]


def _deadline(text: str | None) -> str | None:
    if text is not None and _NUMBER.fullmatch(text) and float(text) < _NEAR:
        return f"+{text}"
    return text


async def _send(settings: "Settings", server: str, order: Order, output: Output, *, wait: bool, follow: bool) -> int:
    from broker import BusUnavailable

    async with open_bus(settings.redis, settings.prefix, order.wait_s) as bus:
        pbx = bus.server(server)
        try:
            call = await pbx.submit(order.action, headers=order.headers, timeout=order.wait_s, **order.options)
            if not wait:
                _show_queued(output, call)
                return 0
            keys = Keys(server, settings.prefix)
            return await _await(keys, pbx, call, order.wait_s, output, follow=follow)
        except BusUnavailable as error:
            # From here on nobody can say that it is not on the queue.
            raise Failure(f"{error} (the address is AMIBUS_REDIS, or --redis)", UNKNOWN) from None


def _show_queued(output: Output, call: "Call") -> None:
    if output.as_json:
        names = {"server": call.server, "action_id": call.action_id, "entry": call.entry, "action": call.action}
        output.object({"type": "queued", **names})
    else:
        output.line(("queued", "bold blue"), (call.action, "bold"), (call.action_id, "magenta"), (call.entry, "dim"))


async def _await(keys: Keys, pbx: "Server", call: "Call", wait_s: float, output: Output, *, follow: bool) -> int:
    from broker import ResultTimeout
    from workers.cli.result_view import show_result

    async with call:
        notice = asyncio.create_task(notice_absence(pbx, call.action_id))
        following = asyncio.create_task(_follow(call, output)) if follow else None
        try:
            result = await call.result(wait_s, raise_on_failure=False)
            show_result(output, result)
            if following is not None:
                await following
                last = await call.result(raise_on_failure=False)
                if last is not result:  # the truth came later, and revised it
                    show_result(output, result := last)
        except ResultTimeout as error:
            hint = f"redis-cli HGETALL '{keys.action(call.action_id)}' tells its fate"
            raise Failure(f"{error}, and {hint}", UNKNOWN) from None
        finally:
            for task in (notice, following):
                await ended(task)
    return _exit_code(result)


async def _follow(call: "Call", output: Output) -> None:
    from workers.cli.event_view import show_event

    async for event in call.events():
        show_event(output, event)


def _exit_code(result: "Result") -> int:
    from broker import State

    if result.state is State.DONE:
        return 0
    return UNKNOWN if result.state is State.UNKNOWN else 1
