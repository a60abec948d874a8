"""`amibus worker`: the process beside Asterisk."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import click
from click.exceptions import Exit

from broker.errors import SettingsError
from workers.cli.failures import BUG, known_error
from workers.cli.options import given, origins, setting_options
from workers.cli.output import Output
from workers.config import Settings, load_settings


@click.command()
@click.option("--print-config", is_flag=True, help="Show every setting, its value and where that is from; then end.")
@click.option("--until-drained", is_flag=True, help="End by itself once the queue is empty and all of it is settled.")
@setting_options()
def worker(config: str | None, print_config: bool, until_drained: bool, **flags: Any) -> None:
    """Run the worker that serves one Asterisk server.

    It takes actions from the server's queue on Redis, writes each to Asterisk at most once, and publishes results and
    events. SIGTERM or Ctrl-C lets what was sent be answered first; a second one ends it at once.

    With --until-drained it serves what is queued, waits for the results (of a call: for its answer, not for its end),
    gives the lease back and ends; for scripts, and before a move. Where another worker serves this server it stands by
    first, and while Asterisk is away it waits, also with nothing on the queue.

    A second worker for the same server stands by. It refuses to do so for another Asterisk than the one that is served;
    they are told apart by their entity ids, which asterisk.conf must set (entityid) where two run on one host.

    \b
    Examples:
      AMIBUS_AMI_SECRET_FILE=/etc/amibus/secret amibus worker --server pbx1
      amibus worker --config /etc/amibus/pbx1.toml --print-config
      amibus worker --config /etc/amibus/pbx1.toml --until-drained && echo "all settled"

    \b
    Exit codes:
      0   stopped as asked, or drained
      1   ended at once by a second signal: the next worker finds out what became of what was in flight
      2   wrong use
      70  an error that nobody expected, which the log tells
      78  a setting cannot work, Asterisk refused the login, or Redis is unsuitable: mend it first
    """
    flags = given(flags)
    settings = load_settings(flags, file=config)
    if print_config:
        _print_config(settings, origins(flags, config))
        return
    if not settings.server:
        raise SettingsError("no server is named: give --server pbx1, AMIBUS_SERVER, or server in the settings file")
    run_worker(settings, until_drained=until_drained)


def run_worker(settings: Settings, *, until_drained: bool = False) -> None:
    """Serve until a signal, or until drained. Raises `SettingsError`, or an exception group that holds one."""
    import structlog

    from workers.logs import configure
    from workers.service import serve

    configure(settings.log_format, settings.log_level)
    try:
        _run(lambda: serve(settings, until_drained=until_drained))
    except Exception as error:
        if known_error(error) is None:
            # The log is where an operator looks: there, and only there, the traceback is of use.
            structlog.get_logger().critical("the worker ended by an error that nobody expected", exc_info=True)
            raise Exit(BUG) from None
        raise


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _print_config(settings: Settings, found: dict[str, str]) -> None:
    output = Output()
    if found["name"] == "default":
        settings = replace(settings, name="(host-pid)")
    rows = []
    for name, value in settings.shown().items():
        origin = found[name]
        rows.append((name, value, (origin, "dim" if origin.startswith("default") else "green")))
    output.table(("setting", "value", "from"), rows)
