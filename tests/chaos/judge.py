"""The judge: a program of its own that knows what was submitted, reads the trackers, and counts what is not so.

`python -m tests.chaos.judge FOLDER`. It is told nothing by the operator, its log or its TrackedRuns. Of each run in
each tracker: **lost** (a run, child, point, param, tag that is not there), **doubled** (there more than once),
**changed** (there otherwise: a value by one bit, a time by a millisecond), **unexplained** (there, and nobody submitted
it). What can be excused, by the judge's own timeline alone, is listed one by one. Exit code 0 if all four are 0.
"""

import argparse
import json
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from tests.chaos.generating import UNWELCOME
from tests.chaos.reading import Fits, Place, Read, fits, read
from tests.chaos.submitting import Submitted, load

from pipetrail.record import Frozen
from pipetrail.targets.target import Held, Metric, TrackerRun

PLACES: Final = "places.json"
TIMELINE: Final = "timeline.jsonl"
VERDICT: Final = "verdict.json"
NO_EXCUSE_UNDER_S: Final = 30.0
SHOWN_MOST: Final = 40
Kind = Literal["lost", "doubled", "changed", "unexplained"]
KINDS: Final[tuple[Kind, ...]] = ("lost", "doubled", "changed", "unexplained")


class Finding(Frozen, frozen=True):
    """One thing that is not as it was submitted; `excuse` says why that is none of the operator's fault."""

    kind: Kind
    tracker: str
    run: str
    what: str
    excuse: str = ""


class Tally(Frozen, frozen=True):
    """One line of the table."""

    tracker: str
    runs: int
    tracker_runs: int
    points: int
    findings: tuple[Finding, ...]

    def count(self, kind: Kind) -> int:
        """Findings of a kind that nothing excuses."""
        return sum(f.kind == kind and not f.excuse for f in self.findings)


class Timeline(Frozen, frozen=True):
    """When an operator was up: Unix seconds from and to."""

    up: tuple[tuple[float, float], ...]

    def down_s(self, from_s: float, to_s: float) -> float | None:
        """How long none was up around a span of time; null if one was up at any instant of it."""
        if any(began < to_s and from_s < ended for began, ended in self.up):
            return None
        before = max((ended for _, ended in self.up if ended <= from_s), default=from_s)
        after = min((began for began, _ in self.up if began >= to_s), default=to_s)
        return after - before


def timeline(lines: Iterable[Mapping[str, Any]]) -> Timeline:
    """From what the driver wrote down."""
    up: list[tuple[float, float]] = []
    since: float | None = None
    for line in lines:
        if line["what"] == "operator up":
            since = line["at"]
        elif line["what"] == "operator down" and since is not None:
            up.append((since, line["at"]))
            since = None
    return Timeline(up=tuple(up if since is None else [*up, (since, float("inf"))]))


def judged(place: Place, submitted: Sequence[Submitted], held: Read, times: Timeline) -> Tally:
    """One tracker."""
    target = fits(place)
    mine = [run for run in submitted if run.namespace in place.namespaces]
    by_key: dict[str, list[Held]] = defaultdict(list)
    for there in held.runs:
        by_key[there.key].append(there)
    known: set[str] = set()
    tracker_runs = points = 0
    findings: list[Finding] = []
    for run in mine:
        wanted = [target.fit(each) for each in run.tree.runs]
        known |= {each.key for each in wanted}
        tracker_runs += len(wanted)
        points += sum(len(each.metrics) for each in wanted)
        for each in wanted:
            found = by_key.get(each.key, [])
            told = compare(each, found, figures=place.kind != "mlflow")
            findings += (_finding(place, run, times, kind, f"{each.name}: {what}") for kind, what in told)
        findings += (
            _finding(place, run, times, kind, what) for kind, what in _tree(target, wanted, by_key, held.parents)
        )
        findings += (_finding(place, run, times, kind, what) for kind, what in _numbers(place, run, wanted, by_key))
    strange = [f"{f.name} ({f.key})" for f in held.runs if f.key not in known] + list(held.strange)
    findings += (Finding(kind="unexplained", tracker=place.name, run="", what=text) for text in strange)
    return Tally(
        tracker=place.name, runs=len(mine), tracker_runs=tracker_runs, points=points, findings=tuple(findings)
    )  # fmt: skip


def compare(wanted: TrackerRun, found: Sequence[Held], *, figures: bool) -> Iterator[tuple[Kind, str]]:
    """All in which what is held under a key differs from the fitted `wanted`; `figures` if their names were read."""
    if not found:
        yield "lost", "the run is not there"
        return
    for _ in found[1:]:
        yield "doubled", f"the run is there {len(found)} times"
    held = found[0]
    finished_ms = round(wanted.finished.timestamp() * 1000) if wanted.finished else 0
    for what, a, b in (
        ("name", wanted.name, held.name), ("status", wanted.status, held.status),
        ("start", round(wanted.started.timestamp() * 1000), held.started_ms),
        ("end", finished_ms, held.finished_ms or 0),
    ):  # fmt: skip
        if a != b:
            yield "changed", f"{what} is {b!r}, not {a!r}"
    for kind, ours, theirs in (("param", wanted.params, held.params), ("tag", wanted.tags, held.tags)):
        for key, value in ours.items():
            if key not in theirs:
                yield "lost", f"{kind} {key}"
            elif theirs[key] != value:
                yield "changed", f"{kind} {key} is {theirs[key]!r}, not {value!r}"
    for key in held.params.keys() - wanted.params.keys():
        yield "unexplained", f"param {key} = {held.params[key]!r}"
    for plot in wanted.figures:
        if figures and plot.path not in held.figures:
            yield "lost", f"figure {plot.path}"
    yield from _points(wanted.metrics, held.metrics)


def _points(wanted: Iterable[Metric], held: Iterable[Metric]) -> Iterator[tuple[Kind, str]]:
    """Point by point; the same value and step at another time, beside the right one, is there twice."""
    ours, theirs = _by_place(wanted), _by_place(held)
    for place in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(place, Counter()), theirs.get(place, Counter())
        missing, extra = list((a - b).elements()), list((b - a).elements())
        shown = f"{place[0]} at step {place[1]}"
        for value, ms in extra:
            if not a:
                yield "unexplained", f"point {shown}: {_number(value)} at {ms}"
            elif missing:
                right, when = missing.pop()
                yield "changed", f"point {shown} is {_number(value)} at {ms}, not {_number(right)} at {when}"
            else:
                yield "doubled", f"point {shown}: {_number(value)} at {ms} is there besides"
        for value, _ in missing:
            yield "lost", f"point {shown}: {_number(value)}"


def _by_place(points: Iterable[Metric]) -> dict[tuple[str, int], Counter[tuple[str, int]]]:
    places: dict[tuple[str, int], Counter[tuple[str, int]]] = defaultdict(Counter)
    for point in points:
        places[point.key, point.step][_bits(point.value), point.time_ms] += 1
    return places


def _bits(value: float) -> str:
    """float64 as 16 hex digits: equal only if each bit is. Every NaN is one."""
    try:
        number = float(value)
    except OverflowError:
        return str(value)
    return "7ff8000000000000" if number != number else struct.pack(">d", number).hex()


def _number(bits: str) -> str:
    return repr(struct.unpack(">d", bytes.fromhex(bits))[0]) if len(bits) == 16 else bits


def _tree(
    target: Fits, wanted: Sequence[TrackerRun], by_key: Mapping[str, Sequence[Held]], parents: Mapping[str, str]
) -> Iterator[tuple[Kind, str]]:
    """Where children hang, and the parent's note, which links them."""
    parent, *children = wanted
    if any(not by_key.get(run.key) for run in wanted):
        return
    tops = {held.handle.id for held in by_key[parent.key]}
    for child in children:
        above = {parents.get(held.handle.id, "") for held in by_key[child.key]}
        if child.nested and not above & tops:
            yield "changed", f"{child.name} hangs on {sorted(above)}, not on {sorted(tops)}"
    if any(len(by_key[run.key]) > 1 for run in wanted):
        return  # that is said, and which of them the note should link nobody knows
    note = target.describe(parent, [by_key[child.key][0].handle for child in children])
    if note != (there := by_key[parent.key][0].note):
        same = next(
            (n for n, (a, b) in enumerate(zip(there, note, strict=False)) if a != b), min(len(there), len(note))
        )
        yield "changed", f"{parent.name}: the note goes on with {there[same:][:60]!r}, not {note[same:][:60]!r}"


def _numbers(
    place: Place, run: Submitted, wanted: Sequence[TrackerRun], by_key: Mapping[str, Sequence[Held]]
) -> Iterator[tuple[Kind, str]]:
    """The numbers that were submitted, apart from any record of ours."""
    there = {_bits(p.value) for each in wanted for held in by_key.get(each.key, ()) for p in held.metrics}

    def stored(value: float) -> float:
        return float(struct.unpack("<f", struct.pack("<f", value))[0]) if place.kind == "tensorboard" else value

    refused = {_bits(p.value) for each in wanted for p in each.metrics if p.key.endswith(UNWELCOME)}
    for value in run.values:
        bits = _bits(stored(value))
        if bits not in there and bits not in refused:
            yield "lost", f"the number {value!r}, in whatever place"
    for value in run.withheld:
        if _bits(stored(value)) in there:
            yield "unexplained", f"the number {value!r} of an attempt that failed"


def _finding(place: Place, run: Submitted, times: Timeline, kind: Kind, what: str) -> Finding:
    excuse = ""
    if kind == "lost" and place.kind != "tensorboard" and f"{UNWELCOME} at step" in what:
        excuse = "the tracker refuses this item, and no other"
    elif run.deleted_at and kind in ("lost", "changed"):
        down_s = times.down_s(run.final_at, run.deleted_at)
        if down_s is not None and down_s >= NO_EXCUSE_UNDER_S:
            excuse = f"its last state stood only while no operator was up, for {down_s:.0f} s"
    return Finding(kind=kind, tracker=place.name, run=f"{run.namespace}/{run.name}", what=what, excuse=excuse)


def verdict(folder: Path) -> tuple[Tally, ...]:
    """Judge what lies in the folder of a run of the suite."""
    places = msgspec.json.decode((folder / PLACES).read_bytes(), type=tuple[Place, ...])
    with (folder / TIMELINE).open() as lines:
        times = timeline(json.loads(line) for line in lines)
    submitted = load(folder)
    return tuple(judged(place, submitted, read(place), times) for place in places)


def table(tallies: Sequence[Tally]) -> Table:
    """Fits 120 columns."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("TRACKER")
    for column in ("RUNS", "TRACKER RUNS", "POINTS", *(kind.upper() for kind in KINDS), "EXCUSED"):
        shown.add_column(column, justify="right")
    for tally in tallies:
        excused = sum(bool(f.excuse) for f in tally.findings)
        cells = (tally.runs, tally.tracker_runs, tally.points, *(tally.count(kind) for kind in KINDS), excused)
        shown.add_row(tally.tracker, *map(str, cells))
    return shown


def main() -> int:
    """Judge, print, say by the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.judge", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tallies = verdict(folder)
    findings = [finding for tally in tallies for finding in tally.findings]
    (folder / VERDICT).write_bytes(msgspec.json.encode(tallies))
    console = Console(width=120, highlight=False)
    guilty = [f for f in findings if not f.excuse]
    for finding in guilty[:SHOWN_MOST]:
        console.print(f"  {finding.kind}: {finding.tracker} {finding.run} {finding.what}"[:1000], markup=False)
    if len(guilty) > SHOWN_MOST:
        console.print(f"  … and {len(guilty) - SHOWN_MOST} more: {folder / VERDICT}")
    for finding in (f for f in findings if f.excuse):
        line = f"  excused: {finding.tracker} {finding.run} {finding.kind} {finding.what}: {finding.excuse}"
        console.print(line, markup=False)
    console.print(table(tallies))
    return 1 if guilty else 0


if __name__ == "__main__":
    sys.exit(main())
