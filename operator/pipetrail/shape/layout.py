"""Where each step's findings go: on the parent, or in a child (mapping.md §2).

A loop's turn is one child, whether the loop is over a single step or over a whole sub-pipeline: the steps inside one
turn of a looped DAG share a child, so that a turn's ``train/loss`` stands beside its ``evaluate/auc``. Which step is
looped is told by the record itself: the outermost that has the same items.

Everything here is decided by what a step is, never by what other steps have produced, so that a place that was once
used stays. Only a turn whose label an earlier turn already has gets its index too; Argo makes turns in their order.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pipetrail.record import Frozen, Record, Step
from pipetrail.shape import names
from pipetrail.shape.names import Iteration

Layout = Literal["Auto", "Flat", "Nested", "Siblings"]
Identity = tuple[str, tuple[int, ...] | None]


class Turn(Frozen, frozen=True):
    """One turn of a loop. `path` is the looped step's, `label` what people call the turn (``depth=4``)."""

    path: str
    iteration: Iteration
    label: str

    @property
    def in_key(self) -> str:
        """The label as a part of a metric key: ``depth-4``."""
        return self.label.replace(" #", ".").replace(" ", ".").replace("=", "-").replace("/", "_")


class Child(Frozen, frozen=True):
    """A tracker run of its own: a turn, or (layout Nested) a step outside loops."""

    path: str
    turn: Turn | None = None

    @property
    def name(self) -> str:
        """As it is shown: ``train depth=4``."""
        return names.joined(self.path, self.turn.label if self.turn else "", by=" ")

    @property
    def iteration(self) -> Iteration | None:
        """The loop items; none outside loops."""
        return self.turn.iteration if self.turn else None


class Place(Frozen, frozen=True):
    """Where one step's findings go. `prefix` is the step's name there, empty where the tracker run is the step."""

    step: Step
    prefix: str
    child: Child | None = None
    turn: Turn | None = None


def identity(path: str, iteration: Iteration | None) -> Identity:
    """What tells a step or turn apart within one record: its path, and the indexes of the loops around it."""
    return path, None if iteration is None else tuple(turn.index for turn in iteration)


def places(record: Record, layout: Layout) -> tuple[Place, ...]:
    """The place of every step, in the record's order."""
    turns = _turns(record)
    return tuple(_place(step, turns.get(identity(step.path, step.iteration)), layout) for step in record.steps)


def _place(step: Step, turn: Turn | None, layout: Layout) -> Place:
    match layout, turn:
        case "Flat", None:
            return Place(step=step, prefix=step.path)
        case "Flat", Turn():
            return Place(step=step, prefix=names.joined(step.path, turn.in_key, by="."), turn=turn)
        case _, Turn():
            inner = step.path.removeprefix(turn.path).lstrip("/")
            return Place(step=step, prefix=inner, child=Child(path=turn.path, turn=turn), turn=turn)
        case (("Nested" | "Siblings"), None) if step.path:
            return Place(step=step, prefix="", child=Child(path=step.path))
        case _:
            return Place(step=step, prefix=step.path)


def _turns(record: Record) -> Mapping[Identity, Turn]:
    """The turn of each step that stands in a loop."""
    known = {identity(s.path, s.iteration): s for s in record.steps if s.iteration}
    groups: dict[str, list[Step]] = {}
    for step in record.steps:
        if step.kind == "composite":
            groups.setdefault(step.path, []).append(step)
    taken: dict[tuple[str, str], Iteration] = {}
    made: dict[Identity, Turn] = {}
    found: dict[Identity, Turn] = {}
    for step in sorted(known.values(), key=lambda s: [t.index for t in s.iteration or ()]):
        iteration = step.iteration
        if not iteration:
            continue
        path = next(p for p in prefixes(step.path) if identity(p, iteration) in known)
        root = identity(path, iteration)
        if root not in made:
            label = _label(known[root], groups, record.params)
            if taken.setdefault((path, label), iteration) != iteration:
                label = f"{label} #{'.'.join(str(t.index) for t in iteration)}"
                taken[path, label] = iteration
            made[root] = Turn(path=path, iteration=iteration, label=label)
        found[identity(step.path, iteration)] = made[root]
    return found


def _label(step: Step, groups: Mapping[str, Sequence[Step]], shared: Mapping[str, str]) -> str:
    iteration = step.iteration or ()
    inputs = [step.params]
    for path in reversed(prefixes(step.path)[:-1]):
        around = (s for s in groups.get(path, ()) if iteration[: len(s.iteration or ())] == (s.iteration or ()))
        inputs += [s.params for s in around]
    pairs = [pair for item in iteration for pair in names.turn(item, inputs, shared)]
    return " ".join(names.joined(name, value, by="=") for name, value in pairs)


def prefixes(path: str) -> list[str]:
    """The paths from the outermost step around it down to `path` itself."""
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
