"""From a record to what a tracker is told: names, layout, selection (mapping.md). Pure.

:func:`shape` gives the whole picture each time; what is still to be sent is delivery's business. Two properties
hold, and tests/property/test_shape.py tries them: the same record and policy give the same tree, bit for bit; and the
points and figures of a live run's tree are all in every later tree of that run. So nothing is decided by what may
still come:

- A step's points and figures arrive together, when its last attempt has ended and all of its files and logs that can
  be had were read: what a point is called depends on the step's other sources (merging.py).
- A child is made for a turn when its first point or figure is there; what it is called depends on the turn and
  earlier ones.
- ``<step>/<metric>.min`` and ``.max`` over the turns of a loop are sent when the run has ended and nothing is unread:
  until then Argo may still add turns (``parallelism``), and a point that was sent can't be taken back. Of a curve its
  last value counts.

Exceptions, which delivery reports as ``Corrected``: a node that says otherwise than its task result did; outputs of a
killed step that come after the run's end (they may move a loop's min and max); a run that is retried; and, only with a
``naming.metric`` without {step}, two steps that share a key of which the one that ended later was seen or read first.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from pipetrail.api import Policy
from pipetrail.record import ALL_READ, Number, Point, Record, Status, Step, Unread
from pipetrail.settings import Places
from pipetrail.shape import facts, files, merging, names, note, selection
from pipetrail.shape.changes import Changes
from pipetrail.shape.figures import Figures
from pipetrail.shape.layout import Child, Identity, Place, identity, places
from pipetrail.targets.target import Metric, Plot, RunStatus, TrackerRun, Tree

__all__ = ["shape"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_NEVER_RAN: Final = frozenset({"pending", "running", "skipped", "omitted", "not_run", "unknown"})


@dataclass(slots=True)
class _Draft:
    """One tracker run while it is made; `child` is None for the parent."""

    child: Child | None
    places: list[Place] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    figures: list[Plot] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    owners: dict[str, Identity | str] = field(default_factory=dict)
    drawers: dict[str, Identity] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.child.name if self.child is not None else ""


@dataclass(slots=True)
class _Loop:
    """What the turns of one looped step ended with, per metric."""

    lasts: dict[str, list[Number]] = field(default_factory=dict)
    finished: datetime = _EPOCH


def shape(
    record: Record, policy: Policy, *, places: Places, cluster_target: bool, attempt: int = 1, supersedes: str = "",
    unread: Unread = ALL_READ,
) -> Tree:  # fmt: skip
    """The tracker runs of `record` (redacted already) under the policy that is pinned for it.

    `attempt` counts the tracker runs of one run: one that was retried with other values is a new one, `supersedes` the
    name or key of the one before it. Of what is `unread` nothing is decided yet.
    """
    shaping = _Shaping(facts.in_texts(record), policy, places, attempt, supersedes, unread)
    return shaping.tree(cluster_target=cluster_target)


class _Shaping:
    def __init__(
        self, record: Record, policy: Policy, addresses: Places, attempt: int, supersedes: str, unread: Unread
    ) -> None:
        self.record = record
        self.naming = policy.naming
        self.capture = policy.capture
        self.addresses = addresses
        self.attempt = attempt
        self.supersedes = supersedes
        self.all_read = unread.nothing
        self.unread = {identity(s.path, s.iteration) for n, s in enumerate(record.steps) if n in unread.steps}
        self.root = names.root_key(record.key.run, attempt)
        self.changes = Changes()
        self.known = facts.Known(record)
        self.commit = facts.commit(record)
        self.user_tags = facts.user_tags(record, self.changes)
        self.figures = Figures(self.changes)
        self.loops: dict[str, _Loop] = {}

    def tree(self, *, cluster_target: bool) -> Tree:
        """Step by step in the order in which they ended, so that a key belongs to the step that had it first."""
        every = places(self.record, self.naming.layout)
        parent = _Draft(child=None)
        drafts: dict[Identity, _Draft] = {}
        for place in every:
            self._draft(place, parent, drafts).places.append(place)
        for place in sorted(every, key=lambda p: p.step.finished or _LAST):
            self._findings(place, self._draft(place, parent, drafts))
        made = []
        for draft in drafts.values():
            if draft.metrics or draft.figures or self._ended_alone(draft):
                made.append(draft)
            else:
                self._without_child(draft, parent)
        first = {path: n for n, path in reversed([*enumerate(path for path, _ in drafts)])}
        made.sort(key=lambda d: _shown(d.child, first))
        if self.record.outcome.settled and self.all_read:
            self._loops(parent)
        experiment = names.experiment(self.record, self.naming, cluster_target=cluster_target)
        children = tuple(self._child(draft, experiment) for draft in made)
        return Tree(parent=self._parent(parent, every, experiment), children=children)

    def _draft(self, place: Place, parent: _Draft, drafts: dict[Identity, _Draft]) -> _Draft:
        child = place.child
        return parent if child is None else drafts.setdefault(identity(child.path, child.iteration), _Draft(child))

    def _ended_alone(self, draft: _Draft) -> bool:
        """Nested shows every step that ran, with or without points; its start is exact once it has ended."""
        if self.naming.layout not in ("Nested", "Siblings"):
            return False
        return any(p.step.kind != "composite" and p.step.outcome.status not in _NEVER_RAN for p in draft.places)

    def _without_child(self, draft: _Draft, parent: _Draft) -> None:
        """A turn that ended without a point: its outputs stand on the parent, told apart by the turn's label."""
        if not all(p.step.outcome.settled and not self._waits(p.step) for p in draft.places):
            return
        for place in draft.places:
            prefix = names.joined(place.step.path, place.turn.in_key if place.turn else "", by=".")
            moved = Place(step=place.step, prefix=prefix, turn=place.turn)
            chosen = selection.select(place.step, self.capture, self.changes)
            parent.tags.update(facts.output_tags(moved, chosen.outputs, self.capture))

    def _findings(self, place: Place, draft: _Draft) -> None:
        step = place.step
        chosen = selection.select(step, self.capture, self.changes)
        draft.tags.update(facts.output_tags(place, chosen.outputs, self.capture))
        if self._waits(step):
            return
        sent = merging.merge(chosen.points, self.changes, step=step.path)
        ids: dict[str, str] = {}
        for key, point in sent:
            if key not in ids:
                ids[key] = self._key(place, key, draft)
            draft.metrics.append(_metric(ids[key], point.value, point.step, point.time))
        if self.capture.figures == "All" and step.figures and (at := self._ended(step)) is not None:
            draft.figures += self.figures.of(place, draft.drawers, at - _EPOCH, draft.name)
        if place.turn is not None and place.child is not None:
            loop = self.loops.setdefault(step.path, _Loop())
            loop.finished = max(loop.finished, step.finished or _EPOCH)
            for key, point in _lasts(sent).items():
                loop.lasts.setdefault(key, []).append(point.value)

    def _waits(self, step: Step) -> bool:
        return identity(step.path, step.iteration) in self.unread

    def _ended(self, step: Step) -> datetime | None:
        """The time of a step's figures, which have none of their own; none yet while it runs."""
        if step.finished is not None or not step.outcome.settled:
            return step.finished
        return self.record.finished or self.record.started or _EPOCH

    def _key(self, place: Place, key: str, draft: _Draft) -> str:
        """The key in the tracker; one that another step has already is told apart by the step."""
        owner = identity(place.step.path, place.step.iteration)
        wanted = names.metric(self.naming.metric, place.prefix, key)
        with_step = names.metric(names.DEFAULT_METRIC, place.prefix, key)
        full = next((k for k in (wanted, with_step) if draft.owners.setdefault(k, owner) == owner), "")
        if not full:
            full = f"{with_step}.{hashlib.sha256(repr(owner).encode()).hexdigest()[:4]}"
        if full != wanted:
            self.changes.say("metric", wanted, "KeyTaken", f"another step has it: sent as {full}", run=draft.name)
        return full

    def _loops(self, parent: _Draft) -> None:
        for path, loop in self.loops.items():
            for key, values in loop.lasts.items():
                numbers = [v for v in values if not (isinstance(v, float) and math.isnan(v))]
                for suffix, best in (("min", min), ("max", max)):
                    full = names.metric(self.naming.metric, path, f"{key}.{suffix}")
                    if numbers and parent.owners.setdefault(full, f"loop {path}") == f"loop {path}":
                        parent.metrics.append(_metric(full, best(numbers), None, loop.finished))

    def _parent(self, draft: _Draft, every: Sequence[Place], experiment: str) -> TrackerRun:
        record = self.record
        ended = max((p.step.finished for p in every if p.step.finished is not None), default=None)
        started = record.started or record.created or record.finished or _EPOCH
        return TrackerRun(
            key=self.root,
            root=self.root,
            experiment=experiment,
            name=names.run(record, self.naming, attempt=self.attempt),
            status=_status(record.outcome.status),
            started=started,
            finished=max(record.finished or ended or started, started) if record.outcome.settled else None,
            user=record.user,
            source_name=facts.source_name(record),
            commit=self.commit,
            params=facts.parent_params(record, self.known, draft.places, self.capture, self.changes),
            tags=self._tags(draft, [p.step for p in every], record.outcome.status, record.outcome.reason)
            | {names.joined("output", k, by="."): v for k, v in self._run_outputs().items()},
            metrics=tuple(draft.metrics),
            note=note.parent(record, every, self.addresses, self.capture, self.commit),
            figures=tuple(draft.figures),
            files=files.artifacts(every) if record.outcome.settled and self.capture.artifacts == "Reference" else (),
            changes=self.changes.of(),
        )

    def _run_outputs(self) -> dict[str, str]:
        return dict(self.record.outputs.parameters) if self.capture.params == "All" else {}

    def _child(self, draft: _Draft, experiment: str) -> TrackerRun:
        record, child = self.record, draft.child
        assert child is not None
        step = next((p.step for p in draft.places if not p.prefix), draft.places[0].step)
        started, finished = _span([p.step for p in draft.places if p.step.kind != "composite"] or [step])
        started = started or record.started or record.created or _EPOCH
        settled = step.outcome.settled or record.outcome.settled
        ended = finished or step.finished or record.finished or started
        tags = self._tags(draft, [p.step for p in draft.places], step.outcome.status, step.outcome.reason)
        tags["pipetrail.step"] = child.path
        if child.turn is not None:
            tags["pipetrail.item"] = child.turn.label
        if self.naming.layout == "Siblings":
            tags["pipetrail.parent"] = self.root
        params = facts.child_params(record, self.known, child, draft.places, self.capture, self.changes)
        return TrackerRun(
            key=names.child_key(self.root, child.path, child.iteration),
            root=self.root,
            experiment=experiment,
            name=child.name,
            status=_status(step.outcome.status) if step.outcome.settled else "Killed" if settled else "Running",
            started=started,
            finished=max(ended, started) if settled else None,
            nested=self.naming.layout != "Siblings",
            user=record.user,
            source_name=facts.source_name(record),
            commit=self.commit,
            params=params,
            tags=tags,
            metrics=tuple(draft.metrics),
            figures=tuple(draft.figures),
            note=note.child(record, draft.places, child.name, self.addresses, self.capture),
            changes=self.changes.of(draft.name),
        )

    def _tags(self, draft: _Draft, steps: Sequence[Step], status: Status, reason: str | None) -> dict[str, str]:
        tags = {**self.user_tags, **facts.run_tags(self.record, self.addresses, steps, self.supersedes)}
        tags["pipetrail.outcome"] = status
        if reason:
            tags["pipetrail.reason"] = reason
        return tags | draft.tags


def _shown(child: Child | None, first: Mapping[str, int]) -> tuple[int, tuple[int, ...]]:
    """Children by step, in the record's order of steps, then by turn."""
    assert child is not None
    path, indexes = identity(child.path, child.iteration)
    return first[path], indexes or ()


def _status(status: Status) -> RunStatus:
    """mapping.md §5. What nothing tells of is closed as killed: it is not known to have come to its end."""
    match status:
        case "running" | "pending":
            return "Running"
        case "failed" | "error":
            return "Failed"
        case "terminated" | "stopped" | "deleted" | "unknown":
            return "Killed"
        case _:
            return "Finished"


def _span(steps: Sequence[Step]) -> tuple[datetime | None, datetime | None]:
    """From the first main container's start to the last one's end: of each step its last attempt (mapping.md §5)."""
    starts, ends = [], []
    for step in steps:
        last = step.attempts[-1] if step.attempts else None
        starts.append((last.started if last is not None else None) or step.started)
        ends.append((last.finished if last is not None else None) or step.finished)
    return min((t for t in starts if t), default=None), max((t for t in ends if t), default=None)


def _metric(key: str, value: Number, step: int | None, time: datetime) -> Metric:
    return Metric(key=key, value=value, step=step or 0, time_ms=(time - _EPOCH) // timedelta(milliseconds=1))


def _lasts(sent: Sequence[tuple[str, Point]]) -> dict[str, Point]:
    """Of each key the value that a tracker's table shows: the one with the highest step."""
    lasts: dict[str, Point] = {}
    for key, point in sent:
        if key not in lasts or (point.step or 0) >= (lasts[key].step or 0):
            lasts[key] = point
    return lasts
