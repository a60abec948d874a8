"""The settings on the command line: flags made from the fields of `Settings`, so that none has a life of its own."""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from workers.config import ENVIRONMENT_PREFIX, Settings, load_settings, shown_value

CONFIG_VARIABLE: Final = f"{ENVIRONMENT_PREFIX}CONFIG"
CLIENT_SETTINGS: Final = ("redis", "prefix")
"""All that a producer or reader needs; the rest is the worker's, its secrets above all."""

SPOOL_SETTINGS: Final = ("redis", "server", "prefix", "drain_s", "log_format", "log_level")
"""All that `amibus spool` needs."""

_SECRET_FILES: Final = {"ami_secret_file": "", "ami_events_secret_file": ""}
_Command = TypeVar("_Command", bound=Callable[..., Any])


def config_option(command: _Command) -> _Command:
    """`--config`."""
    return click.option(
        "--config", type=click.Path(dir_okay=False), help=f"Settings file (TOML).  [{CONFIG_VARIABLE}]"
    )(command)


def setting_options(names: Iterable[str] | None = None) -> Callable[[_Command], _Command]:
    """A flag for each of these settings (all that may be given as a flag), and `--config`."""
    wanted = None if names is None else set(names)

    def decorate(command: _Command) -> _Command:
        command = config_option(command)
        for each in reversed(fields(Settings)):
            if each.metadata["flag"] and (wanted is None or each.name in wanted):
                command = _option(each)(command)
        return command

    return decorate


def client_options(command: _Command) -> _Command:
    """`--redis`, `--prefix` and `--config`."""
    return setting_options(CLIENT_SETTINGS)(command)


def _option(each: "Field[Any]") -> Callable[[_Command], _Command]:
    default = each.default
    flag = "--" + each.name.replace("_", "-")
    shown = "none" if default in ("", ()) else shown_value(each.name, default)
    text = f"{each.metadata['help']}  [{variable_of(each.name)}; default: {shown}]"
    if isinstance(default, bool):
        return click.option(f"{flag}/--no-{flag[2:]}", each.name, default=None, help=text.replace("True", "yes"))
    if isinstance(default, tuple):
        return click.option(flag, each.name, multiple=True, metavar="NAME,...", help=text)
    # As text: a wrong value gets the same sentence and exit code wherever it came from.
    metavar = {int: "N", float: "N"}.get(type(default), "TEXT")
    return click.option(flag, each.name, metavar=metavar, help=text)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, as `load_settings` takes them."""
    joined = {name: ",".join(value) or None if isinstance(value, tuple) else value for name, value in flags.items()}
    return {name: value for name, value in joined.items() if value is not None}


def client_settings(redis: str | None, prefix: str | None, config: str | None) -> Settings:
    """Where the bus is."""
    return chosen_settings(CLIENT_SETTINGS, {"redis": redis, "prefix": prefix}, config)


def chosen_settings(names: Iterable[str], flags: Mapping[str, Any], config: str | None) -> Settings:
    """The settings of a command that needs these alone: the worker's own are left alone, its secret is not this user's
    to read."""
    wanted = {CONFIG_VARIABLE, *map(variable_of, names)}
    environment = {name: value for name, value in os.environ.items() if name in wanted}
    return load_settings({**given(flags), **_SECRET_FILES}, environment=environment, file=config)


def origins(flags: Mapping[str, Any], config: str | None) -> dict[str, str]:
    """Where each setting's value is from, for settings that `load_settings` has accepted."""
    path = config or os.environ.get(CONFIG_VARIABLE)
    table = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    found: dict[str, str] = {}
    for each in fields(Settings):
        if each.name in flags:
            found[each.name] = f"flag --{each.name.replace('_', '-')}"
        elif variable_of(each.name) in os.environ:
            found[each.name] = f"environment {variable_of(each.name)}"
        elif each.name in table:
            found[each.name] = f"file {path}"
        else:
            found[each.name] = "default"
    return _derived(found)


def _derived(found: dict[str, str]) -> dict[str, str]:
    unset = "default"
    for name in ("ami_secret", "ami_events_secret"):
        if found[name] == unset and found[f"{name}_file"] != unset:
            found[name] = f"{name}_file"
    if found["ami_events_username"] == unset:
        found |= {
            f"ami_events_{name}": f"default: ami_{name}"
            for name in ("username", "secret")
            if found[f"ami_events_{name}"] == unset
        }
    return found
