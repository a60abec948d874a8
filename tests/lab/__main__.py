"""`python -m tests.lab`: fetch an Asterisk, keep one running, or make the captures anew."""

import argparse
import asyncio
import signal
import sys

from tests.lab.asterisk import LabAsterisk
from tests.lab.capture import make_captures
from tests.lab.fetch import LabUnavailable, ensure
from tests.lab.suites import SUITES


def main() -> int:
    """The exit code: 0, or 1 with one sentence on standard error."""
    arguments = _parser().parse_args()
    versions = list(SUITES) if arguments.version == "all" else [arguments.version]
    try:
        if arguments.command == "fetch":
            for version in versions:
                print(ensure(version, again=arguments.again).root)
        elif arguments.command == "run":
            asyncio.run(_run(arguments.version, arguments.port))
        else:
            for version in versions:
                for path in asyncio.run(make_captures(version)):
                    print(f"{path} {path.stat().st_size} bytes")
    except (LabUnavailable, RuntimeError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch and unpack into the cache, unless it is there")
    fetch.add_argument("version", choices=[*SUITES, "all"])
    fetch.add_argument("--again", action="store_true", help="even if it is there: sid moves on")
    run = commands.add_parser("run", help="start one and keep it up until Ctrl-C")
    run.add_argument("version", choices=SUITES)
    run.add_argument("--port", type=int, help="AMI port (default: a free one)")
    capture = commands.add_parser("capture", help="make the captures anew")
    capture.add_argument("version", choices=[*SUITES, "all"])
    return parser


async def _run(version: str, port: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with LabAsterisk(version, port=port) as asterisk:
        print(f"Asterisk {asterisk.version}, AMI at {asterisk.host}:{asterisk.port}, process {asterisk.pid}")
        for user, secret in asterisk.users.items():
            print(f"  user {user:<14} secret {secret}")
        print(f"  configuration {asterisk.config_dir}, log {asterisk.log_path}")
        print(f"  recordings {asterisk.spool_dir}/monitor")
        print("Calls: Local/100@default and its like (tests/lab/conf/extensions.conf). Ctrl-C ends it.", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
