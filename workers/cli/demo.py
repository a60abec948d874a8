"""`amibus demo`: the whole bus on one machine, with nothing to install beside it."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from broker.errors import AmibusError, SettingsError
from workers.cli.options import CONFIG_VARIABLE, given, setting_options, variable_of
from workers.cli.output import Output
from workers.config import Settings, load_settings

if TYPE_CHECKING:
    from broker.client import Server

READY_S: Final = 15.0
"""So long the worker may take until Asterisk has let it in."""
LOOK_S: Final = 0.05
STOP_S: Final = 10.0

_LOGIN: Final = (
    "ami_username", "ami_secret", "ami_secret_file",
    "ami_events_username", "ami_events_secret", "ami_events_secret_file",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the demo was asked to show."""

    calls: int
    once: bool
    channel: str
    """Of the calls, on a real Asterisk."""


@click.command()
@click.option("--ami", metavar="HOST:PORT", help="A real Asterisk instead of the simulated one; its secret comes from"
              " AMIBUS_AMI_SECRET, AMIBUS_AMI_SECRET_FILE or the settings file.")  # fmt: skip
@click.option("--redis", metavar="URL", help="A Redis or Valkey that runs already, instead of the embedded Valkey.")
@click.option("--server", default="demo", show_default=True, help="Name of the server on the bus.")
@click.option("--calls", type=click.IntRange(0, 50), default=4, show_default=True, metavar="N", help="Calls to place.")
@click.option("--channel", help="Channel to call on a real Asterisk.  [default: Local/100@default]")
@click.option("--exten", metavar="EXTEN", help="The same as --channel Local/EXTEN@default.")
@click.option("--once", is_flag=True, help="End after the show.")
@setting_options(("ami_username", "ami_secret_file"))
def demo(
    ami: str | None, redis: str | None, server: str, calls: int, channel: str | None, exten: str | None, once: bool,
    config: str | None, **flags: str | None,
) -> None:  # fmt: skip
    """Show the whole bus at work, with nothing to install.

    It starts an embedded Valkey, a SIMULATED Asterisk and a worker; sends a few actions, one that the worker's policy
    refuses, and places calls; shows the life of each and its events; then stays up, with lines to try, until Ctrl-C.
    Nothing is kept. AMIBUS_REDIS and AMIBUS_AMI are not looked at: only
    --redis and --ami make it touch anything real.

    \b
    Examples:
      amibus demo
      AMIBUS_AMI_SECRET_FILE=secret amibus demo --ami pbx1:5038 --channel PJSIP/100

    \b
    Exit codes:
      0   ended by Ctrl-C, or after the show (--once)
      1   Asterisk or Redis did not answer
      2   wrong use
      78  a setting cannot work, or Asterisk refused the login
    """
    if channel and exten:
        raise click.UsageError("--channel and --exten exclude each other")
    if redis and ":" in redis.partition("://")[2].rpartition("@")[0]:
        raise SettingsError(
            "--redis holds a password, and every user here can read an argument list: give a Redis without one"
        )
    channel = channel or f"Local/{exten or '100'}@default"
    plan = Plan(calls=calls, once=once, channel=channel)
    login = _login(given(flags), config) if ami else {}
    with contextlib.ExitStack() as stack:
        if redis is None:
            from workers.embedded import embedded_valkey

            redis = stack.enter_context(embedded_valkey())
            click.echo(f"embedded Valkey on {redis}")
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amibus-demo-")))
        with (directory / "worker.log").open("w", encoding="utf-8", buffering=1) as log:
            _quiet_logging(log)
            flags = {"redis": redis, "server": server, "ami": ami, "drain_s": "3", **login}
            flags["journal_dir"] = str(directory)  # of a show that ends with it
            asyncio.run(_demo(plan, flags, directory / "worker.log"))


def _login(flags: dict[str, Any], config: str | None) -> dict[str, Any]:
    """The AMI user of a real Asterisk: of the whole environment and file, only that counts here."""
    wanted = {CONFIG_VARIABLE, *map(variable_of, _LOGIN)}
    environment = {name: value for name, value in os.environ.items() if name in wanted}
    settings = load_settings(flags, environment=environment, file=config)
    names = ("ami_username", "ami_secret", "ami_events_username", "ami_events_secret")
    return {name: getattr(settings, name) for name in names}


def _quiet_logging(log: Any) -> None:
    import structlog

    from workers.logs import configure

    configure("json", "info")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=log))


async def _demo(plan: Plan, flags: dict[str, Any], log: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        simulated = flags["ami"] is None
        if simulated:
            flags |= await _simulated(stack)
        settings = load_settings({name: value for name, value in flags.items() if value is not None}, environment={})
        kind = "SIMULATED Asterisk (no telephone exchange)" if simulated else "Asterisk"
        click.echo(f"{kind} on {settings.ami}")
        await _run_beside_worker(settings, lambda: _show(plan, settings, log, simulated=simulated))


async def _simulated(stack: contextlib.AsyncExitStack) -> dict[str, Any]:
    from workers.simulated import SimulatedAsterisk

    # Slow enough to be watched, quick enough not to bore.
    asterisk = await stack.enter_async_context(SimulatedAsterisk(ring_s=0.7, talk_s=1.5))
    return {"ami": asterisk.address, "ami_username": "amibus", "ami_secret": "amibus"}


async def _run_beside_worker(settings: Settings, show: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the worker in this loop until the show is over, or Ctrl-C. Raises what either of them raises."""
    from workers.service import serve

    # The show ends first, and the worker after it.
    stop, stop_worker = asyncio.Event(), asyncio.Event()
    worker = asyncio.create_task(serve(settings, stop_worker), name="worker")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(show()), asyncio.create_task(stop.wait())]
    try:
        done, _ = await asyncio.wait([worker, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (worker, *tasks):  # the worker's error explains the others'
            if task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stop_worker.set()
        await _end(worker)


async def _end(worker: "asyncio.Task[None]") -> None:
    """Let the worker drain and give its lease back."""
    if not worker.done():
        await asyncio.wait([worker], timeout=STOP_S)
        worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def _show(plan: Plan, settings: Settings, log: Path, *, simulated: bool) -> None:
    from broker.client import Bus
    from workers.cli.demo_hints import show_hints
    from workers.cli.demo_story import Story

    async with Bus(settings.redis, settings.prefix, producer="amibus-demo") as bus:
        pbx = bus.server(settings.server)
        asterisk = await _ready(pbx, settings)
        click.echo(f"worker {settings.name} serves {settings.server} (Asterisk {asterisk})")
        await Story(Output(), pbx, simulated=simulated, channel=plan.channel).tell(plan.calls)
        if plan.once:
            return
        show_hints(Output(), settings, channel="Local/100@default" if simulated else plan.channel)
        click.echo(f"\nThe worker's log is in {log}. Ctrl-C ends everything.")
        await asyncio.Event().wait()


async def _ready(pbx: "Server", settings: Settings) -> str:
    """Wait until the worker is connected; Asterisk's version."""
    heartbeat: dict[str, str] = {}
    try:
        async with asyncio.timeout(READY_S):
            while heartbeat.get("worker") != settings.name or heartbeat.get("state") != "connected":
                # The heartbeat is state that nobody announces: it has to be looked at.
                await asyncio.sleep(LOOK_S)
                heartbeat = await pbx.status()
    except TimeoutError:
        other = heartbeat.get("worker", settings.name)
        if other != settings.name:
            raise AmibusError(f"worker {other} serves {pbx.name} on that Redis: choose another --server") from None
        raise AmibusError(f"no connection to Asterisk at {settings.ami} within {READY_S:g} s") from None
    return heartbeat["asterisk"]
