"""`--since`: the place in a stream from which on it is read, also given as a time ago."""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from workers.cli.overview import redis_time

NOW: Final = "$"
OLDEST: Final = "0"

_ENTRY: Final = re.compile(r"\$|\d+(-\d+)?")
_AGO: Final = re.compile(r"-?(\d+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_Command = TypeVar("_Command", bound=Callable[..., Any])


def since_option(default: str, help_text: str) -> Callable[[_Command], _Command]:
    """`--since`."""
    return click.option(
        "--since",
        default=default,
        metavar="ID|$|0|-10m" if default == NOW else "ID|0|-10m",
        callback=_checked,
        help=f"{help_text}  [default: {default}]",
    )


async def place(redis: str, since: str) -> str:
    """A place in the stream. A time is given as an id without a sequence number: no entry of that id need be there."""
    found = _AGO.fullmatch(since)
    if found is None:
        return since
    now = await redis_time(redis)
    return str(max(0, int((now - int(found[1]) * _SECONDS[found[2]]) * 1000)))


def _checked(_context: click.Context, parameter: click.Parameter, text: str) -> str:
    takes_now = parameter.default == NOW
    if _AGO.fullmatch(text) or (_ENTRY.fullmatch(text) and (takes_now or text != NOW)):
        return text
    raise click.BadParameter(f"{text!a} is no stream id,{' $,' if takes_now else ''} 0, or a time such as -10m")
