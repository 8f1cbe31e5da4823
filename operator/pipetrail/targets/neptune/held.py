"""A Neptune run as ours. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final, get_args
from urllib.parse import quote

from pipetrail.targets.figures import whole
from pipetrail.targets.neptune import numbers, paths
from pipetrail.targets.neptune.operations import Point
from pipetrail.targets.neptune.wire import Attribute
from pipetrail.targets.target import Handle, Held, Metric, RunStatus

_STATUS: Final[frozenset[str]] = frozenset(get_args(RunStatus))


def handle(server_uri: str, project: str, short: str) -> Handle:
    """Where the run `short` (PIPE-12) is."""
    url = f"{server_uri.rstrip('/')}/{quote(project)}/e/{quote(short, safe='')}"
    return Handle(id=short, experiment_id=project, url=url)


def by_path(attributes: Iterable[Attribute]) -> dict[str, Attribute]:
    """Attributes under their paths."""
    return {a.path: a for a in attributes}


def held(where: Handle, there: Mapping[str, Attribute], series: Mapping[str, Iterable[Point]] | None = None) -> Held:
    """What Neptune holds of a run: with all points if `series` has them (by path)."""
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    for path, attribute in there.items():
        match paths.named(path):
            case ("param", name) if attribute.value is not None:
                exact = there.get(paths.of("tag", paths.about("pipetrail.exact.", path)))
                params[name] = numbers.spelled(attribute.value if exact is None else exact.value)
            case ("tag", name) if attribute.type == "string":
                tags[name] = str(attribute.value)
    points = tuple(
        Metric(key=path.removeprefix(paths.METRICS), value=value, step=int(step), time_ms=ms)
        for path, found in (series or {}).items()
        for value, step, ms in found
    )
    return Held(
        key=_text(there, paths.KEY), handle=where, name=_text(there, paths.NAME), status=_status(there),
        started_ms=_int(there, paths.STARTED) or 0, finished_ms=_int(there, paths.FINISHED), params=params, tags=tags,
        metrics=points, note=_text(there, paths.NOTE), whole=series is not None,
        figures=whole(path for path, attribute in there.items() if attribute.type == "file"),
    )  # fmt: skip


def is_series(attribute: Attribute) -> bool:
    """True for a metric's series."""
    return attribute.type == "floatSeries" and attribute.path.startswith(paths.METRICS)


def _status(there: Mapping[str, Attribute]) -> RunStatus:
    """Ours, unless Neptune's own flag says otherwise: someone who starts the run again with the client resets it."""
    said = _text(there, paths.STATUS)
    flag = there.get(paths.FAILED)
    failed = flag is not None and flag.value is True
    if said not in _STATUS or failed != (said in ("Failed", "Killed")):
        return "Running"
    return said  # type: ignore[return-value]


def _text(there: Mapping[str, Attribute], path: str) -> str:
    attribute = there.get(path)
    return "" if attribute is None or attribute.value is None else str(attribute.value)


def _int(there: Mapping[str, Attribute], path: str) -> int | None:
    attribute = there.get(path)
    return int(attribute.value) if attribute is not None and isinstance(attribute.value, int | float) else None
