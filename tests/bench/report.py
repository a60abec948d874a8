"""The figures for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.bench.comparison import Comparison


def show(comparisons: Sequence[Comparison], floor: float, console: Console | None = None) -> None:
    """Print a table, and what each side did for its figure."""
    console = console or Console()
    table = Table(title="amibus against panoramisk, side by side (medians)")
    for heading in ("", "amibus", "panoramisk", "", "ratio", "at least", "each round"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=heading != "each round")
    for each in comparisons:
        table.add_row(
            each.name, _figure(each.median_ours), _figure(each.median_theirs), each.unit,
            f"[{'green' if each.passes(floor) else 'red'}]{each.ratio:.2f}[/]" if each.judged else f"{each.ratio:.2f}",
            f"{floor:g}" if each.judged else "", " ".join(f"{ratio:.2f}" for ratio in each.ratios),
        )  # fmt: skip
    console.print(table)
    for each in comparisons:
        console.print(f"[bold]{each.name}[/]", highlight=False)
        console.print(f"  amibus      {each.ours}", f"  panoramisk  {each.theirs}", sep="\n", highlight=False)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"
