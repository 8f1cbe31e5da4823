"""Draws what `python -m tests.bench --only growth -o json` printed: `python -m tests.bench.plot FILE.png < figures`."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

Curves = Mapping[str, Mapping[int, float]]
UNITS = {"CPU": "ms of CPU per run", "memory": "KB of memory per live run"}


def curves(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """By what is measured: live runs to cost."""
    found: dict[str, dict[int, float]] = {}
    first = 0
    for row in rows:
        named = re.fullmatch(r"growth, (\w+) (\d+)", row["name"])
        if named is None:
            continue
        if anchor := re.match(r"(\d+) live runs", row["anchor_is"]):
            first = int(anchor[1])
        curve = found.setdefault(named[1], {first: row["anchor"]})
        curve[int(named[2])] = row["measured"]
    return found


def draw(found: Curves) -> Any:
    """A matplotlib Figure: one chart each, from zero, so that flat is flat."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (what, curve) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        axes.plot(list(curve), list(curve.values()), marker="o")
        axes.set_xscale("log")
        axes.set_ylim(0, max(curve.values()) * 1.3)
        axes.set_xlabel("live runs")
        axes.set_ylabel(UNITS[what])
        axes.grid(alpha=0.3)
        for n, cost in curve.items():
            axes.annotate(f"{cost:.1f}", (n, cost), textcoords="offset points", xytext=(0, 8), ha="center")
    return figure


if __name__ == "__main__":
    draw(curves(json.load(sys.stdin)["rows"])).savefig(sys.argv[1], dpi=120)
