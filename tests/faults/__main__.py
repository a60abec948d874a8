"""`python -m tests.faults`: a campaign of random faults. Ends 1 if a promise was broken, with the seed to replay it; 2
on wrong use."""

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Sequence

from tests.faults.campaign import Campaign, Options, Tally
from tests.faults.kill_points import Orders
from tests.faults.mishaps import MISHAPS, barred_here
from tests.faults.redis_side import LAYOUTS
from tests.faults.variants import VARIANTS
from tests.servers import KINDS, binary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    given = _parser().parse_args(arguments)
    options = _options(given)
    missing = [kind for kind in options.kinds if binary(kind) is None]
    if missing:
        print(f"no {' and no '.join(missing)} server: see tests/servers.py, or choose by --redis", file=sys.stderr)
        return 2
    campaign = Campaign(options)
    tally = campaign.tally
    with asyncio.Runner() as runner:  # its end waits for threads, which may wait for a fail-over that never comes
        try:
            runner.run(_until_told(campaign))
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("interrupted: what follows is what was done until then", file=sys.stderr)
        if given.json:
            print(json.dumps({"seed": options.played_seed, **tally.as_dict()}, indent=2))
        else:
            show(options, tally)
        sys.stdout.flush()
    return 1 if tally.failures else 0


async def _until_told(campaign: Campaign) -> None:
    """Run it; a SIGTERM ends it as Ctrl-C does, and nothing is left behind."""
    running = asyncio.create_task(campaign.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await running


def show(options: Options, tally: Tally) -> None:
    """The report for people."""
    print(f"seed {options.played_seed}: {tally.rounds} rounds, {tally.actions} actions, {tally.writes} writes,")
    print(f"  {tally.lives} lives of workers, {tally.kills} killed, {tally.retries} retries")
    ended = sum(tally.points.values())
    print(f"  kill points: {len(tally.seen)} seen, {len(tally.points)} of them used, {ended} times")
    for title, counts in (
        ("befell", tally.befell), ("faults", tally.mishaps), ("states", tally.states), ("unknown", tally.unknown),
        ("let pass, for Redis had gone back in time", tally.allowed),
    ):  # fmt: skip
        print(f"  {title}: {', '.join(f'{name} {count}' for name, count in counts.most_common()) or 'none'}")
    for name, why in barred_here().items():
        print(f"  not tried: {name} ({why})")
    for failure in tally.failures:
        print(
            f"BROKEN: python -m tests.faults --redis {failure.kind} --layout {failure.layout} --replay {failure.seed}"
        )
        print(f"  after {', '.join(failure.mishaps)}; logs, history and stories are in {failure.directory}")
        for violation in failure.violations[:10]:
            print(f"  {violation}")
    kept = "every promise was kept" if tally.rounds else "nothing was tried"
    print("verdict: " + ("broken" if tally.failures else kept))


def _options(given: argparse.Namespace) -> Options:
    return Options(
        seed=random.SystemRandom().getrandbits(32) if given.seed is None else given.seed,
        kinds=KINDS if given.redis == "both" else (given.redis,),
        minutes=given.minutes, actions=given.actions, rounds=given.rounds, only=given.only, worlds=given.worlds,
        layout=given.layout, kill=given.kill, replay=given.replay,
        variant=given.variant,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the campaign (default: a random one, which is printed)")
    parser.add_argument("--minutes", type=minutes, default=1.0, help="how long (default 1)")
    parser.add_argument("--actions", type=number, default=0, help="stop after so many actions")
    parser.add_argument("--rounds", type=number, default=0, help="stop after so many rounds")
    parser.add_argument("--redis", choices=(*KINDS, "both"), default="both", help="kind of server")
    parser.add_argument("--layout", choices=LAYOUTS, default="", help="of Redis: alone or with a replica and sentinels")
    parser.add_argument("--only", type=_faults, default=[], metavar="FAULT,...", help=f"of {', '.join(MISHAPS)}")
    parser.add_argument("--worlds", type=number, default=2, help="how many at once (default 2)")
    parser.add_argument("--kill", type=_orders, metavar="POINT:N", help="end the first worker of each round there")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one round again")
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="", help="a deliberately broken worker")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def minutes(text: str) -> float:
    """More than none."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return float(text)


def number(text: str) -> int:
    """Not less than 0."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return int(text)


def _faults(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in MISHAPS:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(MISHAPS)}")
    if not names:
        raise argparse.ArgumentTypeError("no fault is named")
    return names


def _orders(text: str) -> Orders:
    try:
        return Orders.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
