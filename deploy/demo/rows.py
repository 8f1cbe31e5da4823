"""The comparison: each value as the code wrote it, as Argo holds it, as MLflow holds it. Pure.

A place is (step, name, epoch): the step as people call it (`train depth=2`, empty for the run), the value's own name,
the step number of a curve's point. Texts are compared as float64, to the last bit.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

CURVE = re.compile(r"epoch=(\d+) (\w+)=(\S+)")
ALONE = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
LOADED = re.compile(r"loaded (\d+) rows")
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ")
TURN = re.compile(r"(?P<name>.*)\(\d+:(?P<item>.*)\)")


class Place(NamedTuple):
    """Where a value belongs."""

    step: str
    name: str
    epoch: int | None = None


Values = Mapping[Place, str]


class Held(NamedTuple):
    """What MLflow's client read of one run: its name, params, and every point of every metric."""

    name: str
    params: Mapping[str, str]
    points: Mapping[str, Sequence[tuple[int, float]]]


class Row(NamedTuple):
    """One line of the table; `equal` is true if all that is known agrees."""

    place: Place
    wrote: str | None
    argo: str | None
    mlflow: str | None
    equal: bool


def label(display: str, loop: str = "depth") -> str:
    """A node's display name as the tracker run is called: ``train(0:2)`` is ``train depth=2``."""
    turn = TURN.fullmatch(display)
    return f"{turn['name']} {loop}={turn['item']}" if turn else display


def file_values(step: str, data: bytes) -> Iterator[tuple[Place, str]]:
    """The numbers of a JSON file, nested names joined by dots, digits as they stand there."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[Place, str]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, _Digits):
            yield Place(step, prefix), str(value)

    yield from walk("", json.loads(data, parse_float=_Digits, parse_int=_Digits))


class _Digits(str):
    """A number as it was written."""

    __slots__ = ()


def log_values(step: str, text: str) -> Iterator[tuple[Place, str]]:
    """What the pipeline's programs print: a curve, a result that is a number alone, how many rows were read."""
    for line in text.splitlines():
        line = STAMP.sub("", line).strip()
        if curve := CURVE.fullmatch(line):
            yield Place(step, curve[2], int(curve[1])), curve[3]
        elif loaded := LOADED.fullmatch(line):
            yield Place(step, "rows"), loaded[1]
        elif ALONE.fullmatch(line):
            yield Place(step, "result"), line


def node_values(node: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Outputs that Argo keeps in a node itself."""
    step = label(str(node.get("displayName")))
    outputs = node.get("outputs") or {}
    for parameter in outputs.get("parameters") or ():
        yield Place(step, parameter["name"]), parameter["value"]
    if "result" in outputs:
        yield Place(step, "result"), outputs["result"]


def held_text(place: Place, held: Mapping[str, Held]) -> str | None:
    """The value at `place` as MLflow holds it; None if it doesn't, or holds another count of points than one."""
    run = held.get(place.step)
    key = place.name
    if run is None:
        run, key = held.get(""), f"{place.step}/{place.name}"
    if run is None:
        return None
    if place.epoch is None and key in run.params:
        return run.params[key]
    if place.epoch is None and f"{key}.final" in run.points:
        key = f"{key}.final"  # a single value beside a curve of its name
    found = [value for epoch, value in run.points.get(key, ()) if place.epoch is None or epoch == place.epoch]
    return repr(found[0]) if len(found) == 1 else None


def rows(wrote: Values, argo: Values, held: Mapping[str, Held]) -> list[Row]:
    """One row for each place that the code or Argo knows, in the order in which Argo ran the steps."""
    places = list(dict.fromkeys([*argo, *wrote]))
    order = {step: n for n, step in enumerate(dict.fromkeys(p.step for p in places))}
    places.sort(key=lambda p: (order[p.step], p.epoch is not None))
    made = []
    for place in places:
        ours = held_text(place, held)
        texts = [text for text in (wrote.get(place), argo.get(place)) if text is not None]
        made.append(Row(place, wrote.get(place), argo.get(place), ours, _equal([*texts, ours])))
    return made


def _equal(texts: Sequence[str | None]) -> bool:
    try:
        return len({float(text) for text in texts if text is not None}) == 1 and None not in texts
    except ValueError:
        return len(set(texts)) == 1


def doubles(keys: Iterable[str], held: Iterable[Held]) -> list[str]:
    """What is there more than once: a key on two runs, a step number twice in one metric."""
    twice = [f"{n} runs have the key {key}" for key, n in Counter(keys).items() if n > 1]
    for run in held:
        for metric, points in run.points.items():
            counts = Counter(epoch for epoch, _ in points)
            twice += [f"{run.name}: {metric} has {n} points at step {e}" for e, n in counts.items() if n > 1]
    return twice
