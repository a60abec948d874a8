"""Names that are given on the command line, and how a shell completes them."""

import asyncio
from collections.abc import Callable, Iterable
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
_Command = TypeVar("_Command", bound=Callable[..., Any])


def server_argument(*, required: bool = True) -> Callable[[_Command], _Command]:
    """The name of an Asterisk server on the bus."""
    return click.argument("server", required=required, callback=_server_name, shell_complete=_complete_server)


def action_argument(command: _Command) -> _Command:
    """The name of an AMI action. Any is taken: a module may bring actions that no list has."""
    return click.argument("action", shell_complete=_complete_action)(command)


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


def _event_names(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    # As Asterisk spells it, where that is known: readers of the stream compare names exactly.
    return tuple(_EVENTS.get(value.lower(), value) for value in values)


def _complete_server(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching(_known_servers(context.params), incomplete)


def _complete_action(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from broker.ami import all_actions

    return _matching((spec.name for spec in all_actions()), incomplete)


def _complete_event(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _matching(EVENT_NAMES, incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    start = incomplete.lower()
    return [CompletionItem(name) for name in names if name.lower().startswith(start)]


def _known_servers(parameters: dict[str, Any]) -> list[str]:
    try:
        settings = client_settings(*[parameters.get(name) for name in ("redis", "prefix", "config")])
        return sorted(asyncio.run(_ask_servers(settings.redis, settings.prefix)))
    except (AmibusError, TimeoutError):
        return []  # a shell's completion has nowhere to say why


async def _ask_servers(redis: str, prefix: str) -> Iterable[str]:
    from broker import Bus

    async with asyncio.timeout(QUICK_S), Bus(redis, prefix) as bus:
        return await bus.servers()
