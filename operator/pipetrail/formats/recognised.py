"""From a JSON or YAML value to points: the shapes that tools write, then the generic rule.

Generic: nested keys joined with dots; a list of numbers is a series whose steps are its indexes (nulls in it are gaps);
nested lists give nothing; a bool or a string is no number. A list of objects with a step key is a series of records
wherever it stands. A file that is a list of other objects is a table whose steps are the indexes, and if there is only
one, that object.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipetrail.formats.points import Points, best_step_key, is_number, whole
from pipetrail.record import number

_SPLIT = re.compile(r"(?:train|valid|val|eval|test|dev|holdout|learn|cv)", re.IGNORECASE)
_REPORT = {"precision", "recall", "f1-score", "support"}


def tree(value: Any, name: str, points: Points) -> None:
    """Add all numbers of `value`, the content of a file; `name` is its stem."""
    match value:
        case dict():
            if not (_huggingface(value, name, points) or _kfp(value, name, points)):
                _object(value, name, points)
        case list() if value and all(isinstance(v, dict) for v in value):
            if records(value, "", points, recognised="records"):
                return
            if len(value) == 1:
                tree(value[0], name, points)
            else:
                for index, row in enumerate(value):
                    add_row(row, "", index, points)
        case list():
            _series(value, name, points)
        case _ if is_number(value):
            points.add(name, value)


def records(rows: Sequence[Mapping[str, Any]], prefix: str, points: Points, *, recognised: str) -> bool:
    """Add a list of objects with a step key; false if it has none."""
    key = best_step_key(rows)
    if key is None:
        return False
    for row in rows:
        add_row(row, prefix, whole(row.get(key)), points, recognised=recognised, without=key)
    return True


def add_row(
    row: Mapping[str, Any],
    prefix: str,
    step: int | None,
    points: Points,
    *,
    time: datetime | None = None,
    recognised: str | None = None,
    without: str | None = None,
    depth: int = 2,
) -> None:
    """Add the numbers of one object at `step`, all but the one under the key `without`, which told the step."""
    for key, value in row.items():
        if is_number(value):
            if key != without or step is None:
                points.add(prefix + key, value, step, time=time, recognised=recognised)
        elif isinstance(value, dict) and value:
            if depth >= points.limits.depth:
                points.note("TooDeep", f"what is nested deeper than {points.limits.depth} is left out")
            else:
                add_row(value, f"{prefix}{key}.", step, points, time=time, recognised=recognised, depth=depth + 1)


def _object(
    value: Mapping[str, Any],
    name: str,
    points: Points,
    *,
    prefix: str = "",
    depth: int = 1,
    recognised: str | None = None,
    setting: bool = False,
) -> None:
    if recognised is None:
        recognised = _shape(value)
    if depth > points.limits.depth:
        points.note("TooDeep", f"what is nested deeper than {points.limits.depth} is left out")
        return
    for key, child in value.items():
        path = prefix + key or name
        if is_number(child):
            points.add(
                path, child, recognised=recognised,
                setting=setting or (recognised == "classification_report" and key == "support"),
            )  # fmt: skip
        elif isinstance(child, dict):
            _object(child, name, points, prefix=path + ".", depth=depth + 1, recognised=recognised, setting=setting)
        elif isinstance(child, list) and child:
            if all(isinstance(v, dict) for v in child):
                if setting or not records(child, path + ".", points, recognised="records"):
                    continue
            else:
                _series(child, path, points, recognised=recognised, setting=setting)


def _series(
    values: Sequence[Any], key: str, points: Points, *, recognised: str | None = None, setting: bool = False
) -> None:
    if not _numbers(values):
        return
    for index, value in enumerate(values):
        if value is not None:
            points.add(key, value, index, recognised=recognised, setting=setting)


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and all(v is None or is_number(v) for v in values)
        and any(v is not None for v in values)
    )


def _huggingface(value: Mapping[str, Any], name: str, points: Points) -> bool:
    history = value.get("log_history")
    if not (isinstance(history, list) and all(isinstance(v, dict) for v in history)):
        return False
    if not records(history, "", points, recognised="huggingface"):
        return False
    rest = {k: v for k, v in value.items() if k != "log_history"}
    _object(rest, name, points, recognised="huggingface", setting=True)
    return True


def _kfp(value: Mapping[str, Any], name: str, points: Points) -> bool:
    entries = value.get("metrics")
    if not (isinstance(entries, list) and entries):
        return False
    found: list[tuple[str, Any]] = []
    for entry in entries:
        if not (isinstance(entry, dict) and isinstance(entry.get("name"), str)):
            return False
        raw = entry.get("numberValue", entry.get("number_value"))
        if raw is None:
            return False
        found.append((entry["name"], number(raw) if isinstance(raw, str) else raw))
    for key, child in found:
        if is_number(child):
            points.add(key or name, child, recognised="kfp")
        else:
            points.note("NotANumber", f"the value of the KFP metric {key[:60]!r} is not a number")
    rest = {k: v for k, v in value.items() if k != "metrics"}
    _object(rest, name, points, recognised="kfp", setting=True)
    return True


def _shape(value: Mapping[str, Any]) -> str | None:
    children = list(value.values())
    if not children:
        return None
    if any(isinstance(c, dict) and c.keys() >= _REPORT for c in children) and all(
        is_number(c) or (isinstance(c, dict) and c.keys() >= _REPORT) for c in children
    ):
        return "classification_report"
    if _curves(value) and any(k.endswith("loss") or k.startswith("val_") for k in value):
        return "keras"
    if all(isinstance(c, dict) and _curves(c) for c in children) and any(_SPLIT.match(k) for k in value):
        return "evals_result"
    return None


def _curves(value: Mapping[str, Any]) -> bool:
    """Only lists of numbers, all of one length."""
    return bool(value) and all(_numbers(c) for c in value.values()) and len({len(c) for c in value.values()}) == 1
