"""Figures in the metadata of KFP's artifacts: confusion matrices and ROC curves (sources.md §4.4)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipetrail.record import ConfusionMatrix, Figure, Number, RocCurve
from pipetrail.sources.argo.body import objs, seq, word

KEYS: Final = frozenset({"confusionMatrix", "confidenceMetrics", "evaluationSlices"})
"""Entries of an artifact's metadata that are figures."""
MAX_SLICES: Final = 100
_MOST: Final = 1 << 1000  # integers that float64 holds, if not exactly


def figures(name: str, metadata: Mapping[str, Any], *, stored: bool) -> tuple[Figure, ...]:
    """The figures of the artifact `name`; entries that are malformed give none.

    `stored` is true for metadata from KFP's store, where every number is a double: counts are made whole again.
    """
    return tuple(_figures(name, metadata, stored))


def _figures(name: str, metadata: Mapping[str, Any], stored: bool) -> Iterator[Figure]:
    if (matrix := _matrix(name, metadata.get("confusionMatrix"), stored)) is not None:
        yield matrix
    if (curve := _curve(name, metadata.get("confidenceMetrics"))) is not None:
        yield curve
    for part in [*objs(metadata.get("evaluationSlices"))][:MAX_SLICES]:
        of_slice = part.get("sliceClassificationMetrics")
        if isinstance(of_slice, Mapping):
            inner = {k: v for k, v in of_slice.items() if k != "evaluationSlices"}
            yield from _figures(f"{name} {word(part.get('slice'))}".rstrip(), inner, stored)


def _matrix(name: str, value: Any, stored: bool) -> ConfusionMatrix | None:
    """Rows are the true classes, in the order of the labels."""
    if not isinstance(value, Mapping):
        return None
    labels = tuple(word(spec.get("displayName")) for spec in objs(value.get("annotationSpecs")))
    rows = [_numbers(seq(row.get("row"))) for row in objs(value.get("rows"))]
    if not labels or any(row is None or len(row) != len(labels) for row in rows) or len(rows) > len(labels):
        return None
    # A matrix of which only some rows were logged has none for the rest (trap 52).
    whole = [*(row or () for row in rows), *[(0,) * len(labels)] * (len(labels) - len(rows))]
    counts = stored and all(float(n).is_integer() and abs(n) < 1e16 for row in whole for n in row)
    rows_of = tuple(tuple(int(n) if counts else n for n in row) for row in whole)
    return ConfusionMatrix(labels=labels, rows=rows_of, name=name)


def _curve(name: str, value: Any) -> RocCurve | None:
    points = [*objs(value)]
    keys = ("falsePositiveRate", "recall", "confidenceThreshold")
    # protojson leaves out what is zero.
    columns = [_numbers([point.get(key, 0.0) for point in points]) for key in keys]
    if not points or None in columns:
        return None
    fpr, tpr, threshold = (tuple(column or ()) for column in columns)
    return RocCurve(fpr=fpr, tpr=tpr, threshold=threshold, name=name)


def _numbers(values: Any) -> tuple[Number, ...] | None:
    found = tuple(v for v in values if type(v) is float or (type(v) is int and abs(v) <= _MOST))
    return found if len(found) == len(values) else None
