"""`amibus simulate`: the simulated Asterisk as a process."""

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import click

from broker.errors import SettingsError
from workers.cli.options import given, setting_options
from workers.config import load_settings

if TYPE_CHECKING:
    from workers.simulated import Faults, SimulatedAsterisk

KINDS: Final = (
    "lose", "late", "error", "misorder", "drop-unread", "drop-before", "drop-amid", "drop-after",
    "refuse-login", "silent", "shutting-down",
)  # fmt: skip
DEFAULT_SECRET: Final = "amibus"  # noqa: S105 - of a simulation, and printed


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=5038, show_default=True, help="Port; 0: a free one.")
@click.option(
    "--event-rate", type=click.FloatRange(0), default=0.0, metavar="N", help="Background events a second.  [default: 0]"
)
@click.option(
    "--ring",
    "ring_s",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds that a call rings.",
)
@click.option("--talk", "talk_s", type=click.FloatRange(0), default=5.0, show_default=True, metavar="S",
              help="Seconds that an answered call lasts, unless Application=Wait says.")  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="Makes what is random repeatable.")
@click.option("--fault", "faults", multiple=True, metavar="KIND[:ACTION[:TIMES]]",
              help="What goes wrong, for all actions or this one (name or ActionID), always or so many times; may be"
              f" repeated. KIND: {', '.join(KINDS)}.")  # fmt: skip
@click.option(
    "--late-by",
    "late_s",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    metavar="S",
    help="How late `late` is.",
)
@setting_options(("ami_username", "ami_secret_file"))
def simulate(
    host: str, port: int, event_rate: float, ring_s: float, talk_s: float, seed: int | None, faults: tuple[str, ...],
    late_s: float, config: str | None, **flags: str | None,
) -> None:  # fmt: skip
    """Run a SIMULATED Asterisk for tests and demonstrations.

    It speaks AMI and is no telephone exchange: no call that it tells of takes place.

    The manager user is that of the worker's own settings (AMIBUS_AMI_USERNAME, AMIBUS_AMI_SECRET or _FILE), so that
    both may share an environment; without a secret it is amibus/amibus. Calls end by the name of the extension: busy,
    congestion and noanswer as they say, ring rings first, any other answers.

    \b
    Examples:
      amibus simulate
      amibus simulate --port 0 --event-rate 1000
      amibus simulate --fault lose:Originate:1 --fault late:Ping

    \b
    Exit codes:
      0   ended by Ctrl-C or SIGTERM
      2   wrong use
      78  a setting cannot work, or the port is taken
    """
    from workers.simulated import SimulatedAsterisk

    settings = load_settings(given(flags), file=config)
    users = {settings.ami_username: settings.ami_secret or DEFAULT_SECRET}
    if settings.ami_events_username != settings.ami_username:
        users[settings.ami_events_username] = settings.ami_events_secret or DEFAULT_SECRET
    asterisk = SimulatedAsterisk(
        host,
        port,
        users,
        ring_s=ring_s,
        talk_s=talk_s,
        event_rate=event_rate,
        seed=seed,
        faults=_script(faults, late_s),
    )
    asyncio.run(_simulate(asterisk, is_known=settings.ami_secret == ""))


def _script(texts: tuple[str, ...], late_s: float) -> "Faults":
    from workers.simulated import Faults

    faults = Faults()
    for text in texts:
        kind, _, rest = text.partition(":")
        action, _, times = rest.rpartition(":") if rest.rpartition(":")[2].isdigit() else (rest, "", "0")
        if kind not in KINDS:
            raise click.BadParameter(f"{kind!a} is none of {', '.join(KINDS)}", param_hint="--fault")
        _add(faults, kind, action or "*", int(times), late_s)
    return faults


def _add(faults: "Faults", kind: str, action: str, times: int, late_s: float) -> None:
    match kind:
        case "lose":
            faults.lose_response(action, times=times)
        case "late":
            faults.delay_response(action, seconds=late_s, times=times)
        case "error":
            faults.answer_error(action, times=times)
        case "misorder":
            faults.misorder(action, times=times)
        case "refuse-login" | "silent" | "shutting-down":
            setattr(faults, kind.replace("-", "_"), True)
        case _:
            faults.drop_connection(action, when=kind.removeprefix("drop-"), times=times)


async def _simulate(asterisk: "SimulatedAsterisk", *, is_known: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await asterisk.start()
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {asterisk.host}:{asterisk.port}: {error.strerror or error}; choose another with --port"
        ) from None
    try:
        secret = f", secret {DEFAULT_SECRET}" if is_known else ", secrets as set"
        click.echo(
            f"simulated Asterisk {asterisk.version} on {asterisk.address} (no telephone exchange; Ctrl-C ends it)"
        )
        click.echo(f"manager users: {', '.join(asterisk.users)}{secret}")
        await stop.wait()
    finally:
        await asterisk.stop()
