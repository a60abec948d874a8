"""Where output goes: rich on a terminal, plain lines into a pipe, one JSON object a line where that was asked for."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

Cell = str | tuple[str, str]
"""A text, or a text and its style."""


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

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """A table; in a pipe its cells are separated by tabs, the names of the columns first."""
        if self.terminal:
            self._rich_table(columns, rows)
            return
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join([clean(cell if isinstance(cell, str) else cell[0]) for cell in row]))

    def _rich_table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            pairs = [(cell, "") if isinstance(cell, str) else cell for cell in row]
            table.add_row(*[Text(clean(text), style=style) for text, style in pairs])
        self.console.print(table)
