"""The benchmark's table: percentiles, figures and verdicts. What is measured is not tested here."""

import io
import json
import math

import pytest
from rich.console import Console
from tests.bench.plot import curves
from tests.bench.table import Row, figure, percentile, plain, show


def row(measured: float | None, *, budget: float = 2.0, anchor: float | None = None, strict: bool = False) -> Row:
    return Row(
        name="n", what="what", budget=budget, measured=measured, unit="ms", anchor=anchor, anchor_is="an anchor" * 20,
        strict=strict,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 3), (99, 5), (100, 5), (0, 1), (20, 1), (21, 2)], ids=lambda v: str(v)
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile([5, 1, 4, 2, 3], percent) == expected


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.123 s"), (1.0, "1 s"), (12.345, "12.3 s"), (1762.4, "1 762 s"), (0.00456, "0.00456 s"),
     (999.6, "1000 s"), (0, "0 s"), (-0.25, "-0.250 s"), (math.nan, "–"), (None, "–")],
)  # fmt: skip
def test_a_figure_has_three_digits(value: float | None, shown: str) -> None:
    assert figure(value, "s") == shown


@pytest.mark.parametrize(
    ("it", "verdict"),
    [(row(2.0), "holds"), (row(2.0, strict=True), "does not hold"), (row(2.1), "does not hold"),
     (row(None), "not measured"), (row(math.nan), "not measured")],
)  # fmt: skip
def test_a_verdict_is_of_the_figure_and_nothing_else(it: Row, verdict: str) -> None:
    assert it.verdict == verdict


def test_a_ratio_says_how_many_times_less_than_the_anchor() -> None:
    assert (row(2.0, anchor=8.0).ratio, row(2.0).ratio, row(None, anchor=8.0).ratio) == (4.0, None, None)


def test_the_table_fits_into_120_columns() -> None:
    out = io.StringIO()
    rows = [row(1.5, anchor=4.4), row(None), row(1e6, anchor=2e9)]
    show(rows, Console(file=out, width=120), remarks=["a remark " * 30])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 120
    assert "2.93 ×" in out.getvalue()


def test_json_has_no_nan() -> None:
    told = json.loads(plain([row(math.nan)], remarks=["r"]))
    assert (told["rows"][0]["measured"], told["rows"][0]["verdict"], told["remarks"]) == (None, "not measured", ["r"])


def test_what_growth_measured_is_read_from_its_rows_the_first_number_included() -> None:
    def cost(name: str, measured: float, anchor: float, anchor_is: str = "") -> dict[str, object]:
        return {"name": name, "measured": measured, "anchor": anchor, "anchor_is": anchor_is}

    rows = [
        cost("events", 1, 2, "kopf"), cost("growth, CPU 1000", 6.5, 7, "100 live runs"),
        cost("growth, memory 1000", 4, 30), cost("growth, CPU 10000", 6.4, 7), cost("growth, memory 10000", 3, 30),
    ]  # fmt: skip
    assert curves(rows) == {"CPU": {100: 7, 1000: 6.5, 10000: 6.4}, "memory": {100: 30, 1000: 4, 10000: 3}}
