"""`amibus unknown`: the actions whose fate nobody knows."""

import click

from broker.keys import Keys
from workers.cli.doubts import Doubt, Doubts, read_doubts
from workers.cli.names import server_argument
from workers.cli.options import client_options, client_settings
from workers.cli.output import Cell, Output
from workers.cli.overview import connected
from workers.cli.result_view import duration, local_time
from workers.cli.running import run
from workers.cli.since import OLDEST, place, since_option
from workers.config import Settings


@click.command()
@server_argument()
@since_option(OLDEST, "Look at what was settled from this id of `results` on, or so long ago (s, m, h or d).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each action.")
@client_options
def unknown(
    server: str, since: str, as_json: bool, redis: str | None, prefix: str | None, config: str | None
) -> None:  # fmt: skip
    """List the actions whose fate nobody knows.

    They were or may have been sent, and no answer came: the worker never sends them again. Shown is what is unknown
    and was not corrected since, the newest last. `record` says how long the record still lives; as long as it does,
    the worker corrects it by itself if the truth arrives, and `amibus resolve` does it on an operator's word.

    All of it is read from the `results` stream, which keeps about the last 10,000 actions: what was settled before is
    not seen.

    \b
    Examples:
      amibus unknown pbx1
      amibus unknown pbx1 --since -1h
      amibus unknown pbx1 --json | jq -r 'select(.record_lives) | .action_id'

    \b
    Exit codes:
      0  shown, or nothing is unknown
      1  Redis cannot be reached
      2  wrong use
    """
    settings = client_settings(redis, prefix, config)
    doubts = run(_read(settings, server, since))
    output = Output(as_json=as_json)
    if as_json:
        for doubt in doubts.found:
            output.object(doubt)
    else:
        _show(output, server, doubts)


async def _read(settings: Settings, server: str, since: str) -> Doubts:
    start = await place(settings.redis, since)
    async with connected(settings.redis) as pipeline:
        return await read_doubts(pipeline, Keys(server, settings.prefix), start)


def _show(output: Output, server: str, doubts: Doubts) -> None:
    if not doubts.found:
        seen = f"of what was settled since {local_time(doubts.since)}" if doubts.since else "nothing was settled"
        output.line(f"nothing is unknown on {server} ({seen})")
        return
    columns = ("settled", "ActionID", "action", "producer", "code", "why", "record")
    output.table(columns, [_row(doubt) for doubt in doubts.found])


def _row(doubt: Doubt) -> list[Cell]:
    return [
        (local_time(str(doubt["settled_at"] or "")), "dim"),
        (doubt["action_id"], "magenta"),
        doubt["action"],
        doubt["producer"],
        doubt["error"]["code"],
        doubt["error"]["message"],
        _life(doubt),
    ]


def _life(doubt: Doubt) -> Cell:
    if not doubt["record_lives"]:
        return "expired", "dim"
    ttl_s: float | None = doubt["record_ttl_s"]
    if ttl_s is None:  # kept to the end of its call
        return f"lives, call {doubt['call']}" if doubt["call"] else "lives", "green"
    return f"lives, {duration(ttl_s)} left", "green"
