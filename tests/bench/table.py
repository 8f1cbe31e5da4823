"""Rows of measurements, and how they are shown. Pure."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Verdict = Literal["holds", "does not hold", "not measured"]


@dataclass(frozen=True)
class Row:
    """One budget. `measured` and `anchor` are in `unit`; less is better; `strict` means less than, not at most."""

    name: str
    what: str
    budget: float
    measured: float | None
    unit: str
    anchor: float | None = None
    anchor_is: str = ""
    strict: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the budget holds."""
        if self.measured is None or math.isnan(self.measured):
            return "not measured"
        within = self.measured < self.budget if self.strict else self.measured <= self.budget
        return "holds" if within else "does not hold"

    @property
    def ratio(self) -> float | None:
        """How many times less than the anchor; below 1 is more."""
        if self.anchor is None or not self.measured:
            return None
        return self.anchor / self.measured


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured, the smallest that `percent` % do not exceed."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def figure(value: float | None, unit: str) -> str:
    """A figure with three significant digits (whole ones whole) and its unit."""
    if value is None or math.isnan(value):
        return "–"
    if value == round(value) or abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", " ")
    else:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return f"{text} {unit}".strip()


def show(rows: Iterable[Row], console: Console, *, remarks: Sequence[str] = ()) -> None:
    """The table, then what has to be said about single rows, then general remarks."""
    shown = list(rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for head, right in (
        ("WHAT", False), ("BUDGET", True), ("MEASURED", True), ("ANCHOR", True), ("RATIO", True), ("VERDICT", False),
    ):  # fmt: skip
        table.add_column(head, justify="right" if right else "left", no_wrap=head != "WHAT")
    for row in shown:
        ratio = row.ratio
        table.add_row(
            row.what, ("< " if row.strict else "≤ ") + figure(row.budget, row.unit), figure(row.measured, row.unit),
            figure(row.anchor, row.unit), "–" if ratio is None else f"{figure(ratio, '')} ×", row.verdict,
        )  # fmt: skip
    console.print(table)
    for row in shown:
        about = [f"anchor: {row.anchor_is}"] * bool(row.anchor_is) + [row.note] * bool(row.note)
        if about:
            console.print(f"{row.name}: {'; '.join(about)}", markup=False)
    for remark in remarks:
        console.print(remark, markup=False)


def plain(rows: Iterable[Row], *, remarks: Sequence[str] = ()) -> str:
    """The rows as JSON."""

    def one(row: Row) -> dict[str, Any]:
        told = {**asdict(row), "ratio": row.ratio, "verdict": row.verdict}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in told.items()}

    return json.dumps({"rows": [one(row) for row in rows], "remarks": list(remarks)}, ensure_ascii=False, indent=1)
