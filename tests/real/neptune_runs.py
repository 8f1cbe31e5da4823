"""The runs of the contract server, and what operations do to them; its faults are data. Nothing of HTTP here."""

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

PREFIX = "PIPE"


@dataclass
class Faults:
    """What goes wrong, until it is told otherwise. All of it is off at first.

    `increasing`: a series takes a point only behind its last step, as the client's source says of the vendor's server;
    else points are appended whatever is there. `refuse`: paths (regular expression) that get an error in a 200.
    `lose`: paths that are taken and not kept. `search_lag_s`: how long a search does not see a write. `limit`: how many
    attributes a run may have (422 beyond). `status`: answers instead of doing what was asked, by the end of the path.
    """

    increasing: bool = False
    refuse: str = ""
    lose: str = ""
    search_lag_s: float = 0.0
    limit: int = 0
    uploads: int = 200
    body: str = '{"title": "as the test asked"}'
    headers: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """One run; `attributes` maps a path to its type and value."""

    number: int
    custom_id: str | None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    trashed: bool = False
    attributes: dict[str, tuple[str, Any]] = field(default_factory=dict)
    seen_at: float = 0.0
    searchable: dict[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """What people see."""
        return f"{PREFIX}-{self.number}"


class Runs:
    """All runs of the one project. A second create of one custom id gives the first run."""

    def __init__(self) -> None:
        self.faults = Faults()
        self._runs: list[Run] = []

    def create(self, custom_id: str | None) -> Run:
        if custom_id is not None:
            for run in self._runs:
                if run.custom_id == custom_id:
                    return run
        run = Run(number=len(self._runs) + 1, custom_id=custom_id)
        run.attributes["sys/id"] = ("string", run.short)
        run.attributes["sys/failed"] = ("bool", False)
        run.attributes["sys/creation_time"] = ("datetime", int(time.time() * 1000))
        if custom_id is not None:
            run.attributes["sys/custom_run_id"] = ("string", custom_id)
        self._runs.append(run)
        self._index(run)
        return run

    def get(self, named: str) -> Run | None:
        """By id, or by workspace/project/SHORT-1."""
        short = named.rpartition("/")[2]
        return next((r for r in self._runs if named == r.id or short == r.short), None)

    def search(self, query: str) -> list[Run]:
        """Runs for which every equality of the query holds, as the index sees them."""
        wanted = re.findall(r"\(`([^`]+)`:string = \"([^\"]*)\"\)", query)
        for run in self._runs:
            self._index(run, late=True)
        return [r for r in self._runs if all(r.searchable.get(path) == value for path, value in wanted)]

    def execute(self, run: Run, operations: list[dict[str, Any]]) -> list[str]:
        """The errors, in words alone; what had none is done."""
        errors = []
        for operation in operations:
            path = operation["path"]
            if self.faults.refuse and re.search(self.faults.refuse, path):
                errors.append(f"Cannot assign {path}: as the test asked")
            elif self.faults.lose and re.search(self.faults.lose, path):
                continue
            else:
                errors += self._one(run, path, {k: v for k, v in operation.items() if k != "path"})
        self._index(run)
        return errors

    def _one(self, run: Run, path: str, what: dict[str, Any]) -> list[str]:
        ((verb, how),) = what.items()
        kinds = {"assignString": "string", "assignInt": "int", "assignFloat": "float", "assignBool": "bool"}
        before = run.attributes.get(path)
        kind = kinds.get(verb) or {"assignDatetime": "datetime", "logFloats": "floatSeries"}.get(verb)
        if verb == "deleteAttribute":
            return [] if run.attributes.pop(path, None) else [f"Cannot delete {path}: it is not there"]
        if kind is None:
            return [f"operation {verb} is not known here"]
        if before is not None and before[0] != kind:
            return [f"Cannot use {verb} on {path}: it is a {before[0]}"]
        if any(path.startswith(f"{p}/") or p.startswith(f"{path}/") for p in run.attributes):
            return [f"{path} is or lies below an attribute"]
        if verb == "logFloats":
            return self._append(run, path, how["entries"])
        run.attributes[path] = (kind, how["valueMilliseconds"] if kind == "datetime" else how["value"])
        return []

    def _append(self, run: Run, path: str, entries: list[dict[str, Any]]) -> list[str]:
        points = run.attributes.setdefault(path, ("floatSeries", []))[1]
        errors = []
        for entry in entries:
            if self.faults.increasing and points and entry["step"] <= points[-1]["step"]:
                errors.append(
                    f"X-coordinates (step) must be strictly increasing for series attribute: {path}. "
                    f"Invalid point: {entry['step']}"
                )
                continue
            points.append(
                {"value": entry["value"], "step": entry["step"], "timestampMillis": entry["timestampMilliseconds"]}
            )
        return errors

    def _index(self, run: Run, *, late: bool = False) -> None:
        """What a search sees, once it is old enough."""
        now = time.monotonic()
        if not late:
            run.seen_at = now + self.faults.search_lag_s
        if now >= run.seen_at:
            run.searchable = {p: v for p, (kind, v) in run.attributes.items() if kind == "string"}
