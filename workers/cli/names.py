"""Names that are given on the command line, and how a shell completes them."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from broker.errors import AmibusError, SettingsError
from broker.keys import Keys
from workers.cli.event_names import EVENT_NAMES
from workers.cli.options import client_settings

QUICK_S: Final = 0.5
"""Whoever presses TAB waits no longer than this for Redis."""

_EVENTS: Final = {name.lower(): name for name in EVENT_NAMES}
_ACTION_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""A record may also be that of an entry without an ActionID of its own: then this is the entry's id."""

_Command = TypeVar("_Command", bound=Callable[..., Any])


def server_argument(*, required: bool = True) -> Callable[[_Command], _Command]:
    """The name of an Asterisk server on the bus."""
    return click.argument("server", required=required, callback=_server_name, shell_complete=_complete_server)


def action_argument(command: _Command) -> _Command:
    """The name of an AMI action. Any is taken: a module may bring actions that no list has."""
    return click.argument("action", shell_complete=_complete_action)(command)


def doubt_argument(command: _Command) -> _Command:
    """The ActionID of an action that is `unknown`."""
    return click.argument("action_id", metavar="ACTIONID", callback=_action_id, shell_complete=_complete_doubt)(command)


def event_arguments(command: _Command) -> _Command:
    """The names of AMI events, in whatever case."""
    return click.argument(
        "events", nargs=-1, metavar="[EVENT]...", callback=_event_names, shell_complete=_complete_event
    )(command)


def _server_name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else Keys(value).server
    except SettingsError as error:
        raise click.BadParameter(str(error)) from None


def _action_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not _ACTION_ID.fullmatch(value):
        raise click.BadParameter(f"{value!a} is not 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    return value


def _event_names(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    # As Asterisk spells it, where that is known: readers of the stream compare names exactly.
    return tuple(_EVENTS.get(value.lower(), value) for value in values)


def _complete_server(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching(_known_servers(context.params), incomplete)


def _complete_action(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from broker.ami import all_actions

    return _matching((spec.name for spec in all_actions()), incomplete)


def _complete_doubt(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    server: str | None = context.params.get("server")
    if server is None:
        return []
    return _matching(_quickly(context.params, lambda redis, prefix: _ask_doubts(redis, prefix, server)), incomplete)


def _complete_event(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching(EVENT_NAMES, incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    start = incomplete.lower()
    return [CompletionItem(name) for name in names if name.lower().startswith(start)]


def _known_servers(parameters: dict[str, Any]) -> list[str]:
    return sorted(_quickly(parameters, _ask_servers))


def _quickly(parameters: dict[str, Any], ask: Callable[[str, str], Awaitable[Iterable[str]]]) -> Iterable[str]:
    """Ask Redis (its address, the prefix) for names; none if it does not answer at once."""

    async def asked() -> Iterable[str]:
        async with asyncio.timeout(QUICK_S):
            return await ask(settings.redis, settings.prefix)

    try:
        settings = client_settings(*[parameters.get(name) for name in ("redis", "prefix", "config")])
        return asyncio.run(asked())
    except (AmibusError, TimeoutError):
        return []  # a shell's completion has nowhere to say why


async def _ask_servers(redis: str, prefix: str) -> Iterable[str]:
    from broker import Bus

    async with Bus(redis, prefix) as bus:
        return await bus.servers()


async def _ask_doubts(redis: str, prefix: str, server: str) -> Iterable[str]:
    from workers.cli.doubts import read_doubts
    from workers.cli.overview import connected

    async with connected(redis) as pipeline:
        doubts = await read_doubts(pipeline, Keys(server, prefix))
    return [doubt["action_id"] for doubt in doubts.found if doubt["record_lives"]]
