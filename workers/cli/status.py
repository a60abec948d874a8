"""`amibus status`: how the servers are, and one of them in detail."""

from typing import Final

import click
from click.exceptions import Exit

from broker.keys import Keys
from workers.cli.names import server_argument
from workers.cli.options import client_options, client_settings
from workers.cli.output import Cell, Output
from workers.cli.overview import Overview, connected, known_servers, read_last, read_overview
from workers.cli.result_view import duration, local_time, style_of
from workers.cli.running import run
from workers.config import Settings

_FINAL: Final = ("done", "failed", "rejected", "expired", "cancelled", "unknown")


@click.command()
@server_argument(required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each server.")
@client_options
def status(server: str | None, as_json: bool, redis: str | None, prefix: str | None, config: str | None) -> None:
    """Show all servers and their workers, or one in detail.

    Everything is read from Redis, and all ages go by Redis' clock. `backlog` is what is on the queue, in flight
    included; `pending` is the part of it that the worker has taken; `in flight` what Asterisk has not answered yet.

    \b
    Examples:
      amibus status
      amibus status pbx1
      amibus status --json | jq 'select(.alive | not) | .server'

    \b
    Exit codes:
      0  shown
      1  the named server has no live worker, or Redis cannot be reached
      2  wrong use
    """
    settings = client_settings(redis, prefix, config)
    raise Exit(run(_status(settings, server, Output(as_json=as_json))))


async def _status(settings: Settings, server: str | None, output: Output) -> int:
    async with connected(settings.redis) as pipeline:
        beats = await known_servers(pipeline, settings.prefix)
        if server is None:
            names = sorted(beats)
            _show_all(
                output,
                [await read_overview(pipeline, Keys(name, settings.prefix), beats[name]) for name in names],
                settings,
            )
            return 0
        keys = Keys(server, settings.prefix)
        overview = await read_overview(pipeline, keys, beats.get(server)) | await read_last(pipeline, keys)
    if output.as_json:
        output.object(overview)
    else:
        _show_one(output, overview)
    return 0 if overview["alive"] else 1


# -- all servers


def _show_all(output: Output, overviews: list[Overview], settings: Settings) -> None:
    if output.as_json:
        for each in overviews:
            output.object(each)
        return
    if not overviews:
        output.line(f"no server has had a worker yet on {settings.shown()['redis']}")
        return
    columns = (
        "server", "state", "heartbeat", "worker", "host", "asterisk", "backlog", "pending", "in flight", "calls",
        "done", "failed", "unknown",
    )  # fmt: skip
    output.table(columns, [_row(each) for each in overviews])


def _row(overview: Overview) -> list[Cell]:
    worker: dict[str, str] = overview["worker"]
    return [
        (overview["server"], "bold"),
        _state(overview),
        _age(overview),
        worker.get("worker", "-"),
        worker.get("host", "-"),
        worker.get("asterisk") or "-",
        str(sum(lane["backlog"] for lane in overview["lanes"].values())),
        str(sum(lane["pending"] for lane in overview["lanes"].values())),
        worker.get("in_flight", "-"),
        worker.get("calls", "-"),
        *[worker.get(state, "-") for state in ("done", "failed", "unknown")],
    ]


def _state(overview: Overview) -> Cell:
    if not overview["alive"]:
        return "no worker", "bold red"
    state = overview["worker"].get("state", "?")
    return state, "green" if state == "connected" else "bold yellow"


def _age(overview: Overview) -> str:
    age_s: float | None = overview["heartbeat_age_s"]
    return "never" if age_s is None else f"{duration(age_s)} ago"


# -- one server


def _show_one(output: Output, overview: Overview) -> None:
    output.line((overview["server"], "bold"), _state(overview))
    if not overview["alive"]:
        seen = "never seen" if overview["heartbeat_age_s"] is None else f"last heartbeat {_age(overview)}"
        output.line((f"No worker is alive ({seen}): what is queued waits.", "red"))
    if why := overview["worker"].get("why"):
        output.line((f"{'why:':<11}", "dim"), (why, "yellow"), between=" ")
    for name, text in _facts(overview):
        output.line((f"{name + ':':<11}", "dim"), text, between=" ")
    _show_results(output, overview)
    _show_dead(output, overview)


def _facts(overview: Overview) -> list[tuple[str, str]]:
    facts = []
    worker: dict[str, str] = overview["worker"]
    if worker:
        place = f"{worker.get('worker')} on {worker.get('host')}, pid {worker.get('pid')}"
        started = f", since {local_time(worker.get('started_at', ''))}" if worker.get("started_at") else ""
        facts += [
            ("worker", f"{place}, amibus {worker.get('version')}{started}"),
            ("heartbeat", _age(overview)),
            ("asterisk", worker.get("asterisk") or "-"),
        ]
        if _stepped_s(worker):
            facts.append(("clock", f"Redis' was last stepped by {_stepped_s(worker):+.1f} s: have it slewed"))
    lease = overview["lease"]
    held = "nobody" if lease is None else f"{lease.get('worker', lease.get('holder'))}, {lease['ttl_s']:.1f} s left"
    facts.append(("lease", f"{held}; epoch {overview['epoch']}"))
    for lane, counts in overview["lanes"].items():
        facts.append((lane, f"backlog {counts['backlog']}, pending {counts['pending']}"))
    facts.append(("calls", f"{worker.get('calls', '-')} alive, {overview['channels']} channels"))
    if worker:
        facts.append(("in flight", worker.get("in_flight", "-")))
        counted = ", ".join(f"{worker[state]} {state}" for state in _FINAL if state in worker)
        facts.append(("totals", f"{counted}, {worker.get('duplicates', 0)} duplicates"))
    facts.append(("events", f"{overview['events']} kept{_flow(worker) if worker else ''}"))
    facts.append(("refused", f"{overview['dead']} kept"))
    return facts


def _stepped_s(worker: dict[str, str]) -> float:
    try:
        return float(worker.get("clock_stepped_s", 0))  # missing in that of an older worker
    except ValueError:
        return 0.0


def _flow(worker: dict[str, str]) -> str:
    flow = f", {worker.get('events_in')} in, {worker.get('events_dropped')} dropped"
    if worker.get("events_queued", "0") != "0":  # Redis takes them slowly, or not at all
        flow += f", {worker['events_queued']} waiting ({worker.get('events_spooled', 0)} on disk)"
    return flow


def _show_results(output: Output, overview: Overview) -> None:
    if not overview["results"]:
        return
    output.heading("Last results")
    rows: list[list[Cell]] = []
    for each in overview["results"]:
        state = each.get("state", "")
        why = each.get("error_code", "") and f"{each['error_code']}: {each.get('message', '')}"
        rows.append(
            [
                (local_time(each.get("settled_at", "")), "dim"),
                (each.get("action_id", ""), "magenta"),
                each.get("action", ""),
                (state, style_of(state)),
                each.get("producer", ""),
                why,
            ]
        )
    output.table(("settled", "ActionID", "action", "state", "producer", "error"), rows)


def _show_dead(output: Output, overview: Overview) -> None:
    if not overview["last_dead"]:
        return
    output.heading("Last refused")
    output.table(
        ("entry", "ActionID", "action", "why"),
        [
            [
                (each.get("entry", ""), "dim"),
                (each.get("action_id", ""), "magenta"),
                each.get("Action", ""),
                f"{each.get('reason_code', '')}: {each.get('reason', '')}",
            ]
            for each in overview["last_dead"]
        ],
    )
