"""How a part of the production code is exchanged in a worker process. What is not there to be exchanged is an error: a
variant must not come to nothing when the code changes."""

import inspect
import sys
import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any

from broker import scripts

Change = tuple[str, str]
"""A part of a text, which must be in it exactly once, and what takes its place."""


def exchange(owner: Any, **members: Any) -> None:
    """Put these in the place of members of a class or module."""
    for name, member in members.items():
        assert hasattr(owner, name), f"{owner} has no {name} any more"
        setattr(owner, name, member)


def exchange_everywhere(original: Callable[..., Any], other: Callable[..., Any]) -> None:
    """Put it in the place of a function in every module that has imported it."""
    name = original.__name__
    found = [module for module in list(sys.modules.values()) if getattr(module, name, None) is original]
    assert found, f"no module has {name} any more"
    for module in found:
        setattr(module, name, other)


def rewrite(owner: Any, name: str, *changes: Change) -> None:
    """Change the text of a method or function. Its lines keep their numbers, and so the kill points in it their
    names."""
    function = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    edited = "\n" * (function.__code__.co_firstlineno - 1) + _edited(f"{owner.__name__}.{name}", source, changes)
    made: dict[str, Any] = {}
    exec(compile(edited, function.__code__.co_filename, "exec"), function.__globals__, made)
    exchange(owner, **{name: made[name]})


def rewrite_script(name: str, *changes: Change) -> None:
    """Change the text of a Lua script. Redis knows it by another SHA-1 then, and keeps both apart."""
    source = scripts.source
    edited = _edited(f"{name}.lua", source(name).decode(), changes).encode()

    @wraps(source)
    def broken(asked: str) -> bytes:
        return edited if asked == name else source(asked)

    exchange_everywhere(source, broken)


def _edited(what: str, text: str, changes: tuple[Change, ...]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"{what} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text
