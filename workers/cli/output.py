"""Where output goes: rich on a terminal, plain lines into a pipe, one JSON object a line where that was asked for."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | tuple[str, str]
"""A text, or a text and its style."""

_BETWEEN: Final = 3
"""Columns of a terminal between those of a table."""


def clean(text: str) -> str:
    """Text fit for a terminal and for one line: a caller's name may hold escape sequences, and line ends."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class Output:
    """The standard output of one command."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @cached_property
    def terminal(self) -> bool:
        """Whether a person looks at it."""
        return sys.stdout.isatty() and not self.as_json

    @cached_property
    def console(self) -> "Console":
        """Rich's console; only for terminals."""
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self.console.width

    def object(self, value: Mapping[str, Any]) -> None:
        """One JSON object on a line of its own, always UTF-8."""
        click.echo(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))

    def line(self, *cells: Cell, between: str = "  ") -> None:
        """One line of cells; empty ones are left out."""
        shown = [cell if isinstance(cell, tuple) else (cell, "") for cell in cells]
        shown = [(clean(text), style) for text, style in shown if text]
        if not self.terminal:
            click.echo(between.join([text for text, _ in shown]))
            return
        from rich.text import Text

        texts = [Text(text, style=style) for text, style in shown]
        self.console.print(Text(between).join(texts), soft_wrap=True)

    def text(self, text: str) -> None:
        """A line as it is (an Asterisk console's), made harmless."""
        click.echo(clean(text.expandtabs()))

    def heading(self, text: str) -> None:
        """A line above others."""
        click.echo()
        self.line((text, "bold"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], nothing: str = "") -> None:
        """A table; in a pipe its cells are separated by tabs, the names of the columns first. `nothing` is what a
        person reads in the place of an empty one."""
        shown = [[_text_and_style(cell) for cell in row] for row in rows]
        if not self.terminal:
            click.echo("\t".join(columns))
            for row in shown:
                click.echo("\t".join([text for text, _ in row]))
        elif nothing and not shown:
            self.line(nothing)
        else:
            self._rich_table(columns, shown)

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        texts = [[name, *[row[number][0] for row in rows]] for number, name in enumerate(columns)]
        widths = fitted_widths(texts, self.width)
        # Names of channels and the like are copied from here: rather than to cut one in two, rows are left to the
        # terminal, which breaks them where it must.
        table = Table(box=None if widths is None else SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for number, (name, column) in enumerate(zip(columns, texts, strict=True)):
            is_count = number > 0 and all(text.isdecimal() for text in column[1:])
            width = None if widths is None else widths[number]
            table.add_column(name, overflow="fold", width=width, justify="right" if is_count and rows else "left")
        for row in rows:
            table.add_row(*[Text(text, style=style) for text, style in row])
        if widths is not None:
            self.console.print(table)
        else:
            endless = sum(max(map(cell_len, column)) + _BETWEEN for column in texts)
            Console(highlight=False, markup=False, emoji=False, width=endless).print(table)


def fitted_widths(texts: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The widths of a table's columns, whose texts are given, on a terminal so wide: those with blanks in their texts
    give way. None if there is no room even for the longest word of each."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in texts]
    spare = [
        whole - max(cell_len(word) for text in column for word in [*text.split(), ""])
        for whole, column in zip(widths, texts, strict=True)
    ]
    for _ in range(sum(widths) + len(widths) * _BETWEEN - 1 - width):
        most = max(range(len(spare)), key=spare.__getitem__)
        if not spare[most]:
            return None
        spare[most] -= 1
        widths[most] -= 1
    return widths


def _text_and_style(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return clean(text), style
