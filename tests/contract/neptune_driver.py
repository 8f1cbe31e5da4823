"""The contract suite's driver for Neptune: a server that stands in for a vendor's; its own client is the oracle."""

import re
from collections.abc import Sequence
from typing import Any

from tests.real.neptune import Server
from tests.real.neptune_oracle import Oracle

from pipetrail.record import Number
from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import Handle, Held, Metric


class NeptuneDriver:
    """One contract server."""

    create = "/v1/experiments"
    write = "/attributes/operations"
    remembers_deleted = True
    apart = False

    def __init__(self, server: Server, oracle: Oracle) -> None:
        self.server = server
        self.url: str | None = server.url
        self._oracle = oracle

    def target(self, url: str | None) -> NeptuneTarget:
        assert url is not None
        return NeptuneTarget(url, self.server.project, self.server.token(url))

    def oracle(self, experiment: str) -> Sequence[Held]:
        return [held(run) for run in self._oracle.runs(experiment)]

    def parent(self, held: Held) -> str:
        return held.tags.get("pipetrail.parent", "")

    def stored(self, value: Number) -> Number:
        return value


def held(run: dict[str, Any]) -> Held:
    atoms = run["atoms"]
    params = {p.removeprefix("parameters/"): _text(atoms, p) for p in atoms if p.startswith("parameters/")}
    tags = {p.removeprefix("tags/"): v for p, v in atoms.items() if p.startswith("tags/")}
    marks = ("key", "root", "experiment", "status", "started", "finished", "note")
    tags |= {
        p.replace("pipetrail/", "pipetrail.", 1): v
        for p, v in atoms.items()
        if p.startswith("pipetrail/") and p.removeprefix("pipetrail/") not in marks
    }
    status = atoms.get("pipetrail/status", "")
    assert atoms["sys/failed"] == (status in ("Failed", "Killed"))
    return Held(
        key=atoms["pipetrail/key"], handle=Handle(id=run["short"]), name=atoms["sys/name"], status=status,
        started_ms=atoms["pipetrail/started"], finished_ms=atoms.get("pipetrail/finished"), params=params, tags=tags,
        note=atoms.get("sys/description", ""), whole=True, metrics=tuple(_points(run["series"])),
        figures=_figures(run["files"]),
    )  # fmt: skip


def _figures(files: Sequence[str]) -> frozenset[str]:
    """Figures by path: each has one file, or a picture and its data."""
    return frozenset(re.sub(r"\.(png|json|md|html|html\.txt)$", "", p[8:]) for p in files if p.startswith("figures/"))


def _points(series: dict[str, list[tuple[float, int, int]]]) -> Sequence[Metric]:
    return [
        Metric(key=path.removeprefix("metrics/"), value=value, step=step, time_ms=ms)
        for path, points in series.items()
        for value, step, ms in points
    ]


def _text(atoms: dict[str, Any], path: str) -> str:
    """A param's text: what stands beside it if its number would be spelt otherwise."""
    value = atoms.get(f"pipetrail/exact.{path}", atoms[path])
    return value if isinstance(value, str) else repr(value)
