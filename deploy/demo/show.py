"""What the demo prints: lines that stay, tables of at most 120 columns, plain without a terminal."""

import sys
from collections.abc import Sequence

from deploy.demo.rows import Row
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 120
COLOURS = {"cluster": "cyan", "Argo": "blue", "MLflow": "green", "ledger": "magenta", "operator": "yellow"}


class Show:
    """A console that never draws over what it said."""

    def __init__(self) -> None:
        found = Console()
        width = min(found.width, WIDEST) if sys.stdout.isatty() else WIDEST
        self._console = Console(width=width, highlight=False)

    def title(self, text: str) -> None:
        """A new part of the demo."""
        self._console.print()
        self._console.rule(Text(text, style="bold"), align="left", characters="─")

    def line(self, text: str = "", style: str = "") -> None:
        """A line."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def event(self, place: str, text: str) -> None:
        """What happened, and where."""
        head = Text(f"  {place:9}", style=COLOURS.get(place, "dim"))
        self._console.print(head.append(text, style="not bold default"), soft_wrap=True)

    def values(self, rows: Sequence[Row]) -> None:
        """The comparison, one line per value."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("step", "value"):
            table.add_column(name, no_wrap=True)
        for name in ("the code wrote", "Argo holds", "MLflow's client reads"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        before = None
        for row in rows:
            place = row.place
            step = place.step if place.step != before else ""
            if before is not None and place.step != before:
                table.add_section()
            name = place.name if place.epoch is None else f"{place.name}  epoch {place.epoch}"
            mark = Text("✓", style="green") if row.equal else Text("✗ differs", style="bold red")
            table.add_row(step or ("(the run)" if before is None else ""), name, *(_cell(t) for t in row[1:4]), mark)
            before = place.step
        self._console.print(table)


def _cell(text: str | None) -> Text:
    return Text("–", style="dim") if text is None else Text(text)
