"""Where a node stands in the pipeline: its path, its turns of loops and its attempts, from its name alone.

Argo builds a node's name from its parent's (sources.md §1.3, §2.1, §2.2, §2.5)::

    <workflow>[0].outer(1:x)[0].inner(0:lr:0.1)(2)     steps in steps, two loops, third attempt
    <workflow>(0).train.onExit                         a retried entrypoint, the exit handler of a task
    <workflow>.hooks.running                           a hook of the whole workflow

Step names hold no dots or parentheses, and Argo takes parentheses out of items, so the grammar has one reading. Node
ids, display names and boundaries are not needed: ids are hashes, display names can be overridden by an annotation, and
a boundary is missing where only pods are known.
"""

import re
from typing import Final

from pipetrail.record import Frozen, Role

NO_ATTEMPT: Final = -1

_ROOT: Final = re.compile(r"(?:\(\d{1,9}\))*")
_PART: Final = re.compile(r"(?:\[\d{1,9}\])?\.([^.()\[\]]+)((?:\(\d{1,9}(?::[^()]*)?\))*)")
_SUFFIX: Final = re.compile(r"\((\d{1,9})(:[^()]*)?\)")


class Turn(Frozen, frozen=True):
    """One turn of a loop: its index and the item as Argo printed it into the name."""

    index: int
    item: str


class Element(Frozen, frozen=True):
    """One part of a path. `task` is the name in the template, `name` that of the step (``train.onExit``)."""

    name: str
    task: str
    turn: Turn | None = None
    attempt: int = NO_ATTEMPT
    role: Role = "step"


class Place(Frozen, frozen=True):
    """A node's place: elements from the entrypoint down; the entrypoint itself has none."""

    elements: tuple[Element, ...] = ()
    attempt: int = NO_ATTEMPT  #: of the entrypoint, where templateDefaults wrap it in a Retry

    @property
    def path(self) -> str:
        """Names joined by ``/``; "" for the entrypoint."""
        return "/".join(e.name for e in self.elements)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns of all loops around and at this node, outermost first."""
        return tuple(e.turn for e in self.elements if e.turn is not None)

    @property
    def key(self) -> tuple[str, tuple[tuple[int, int], ...]]:
        """What the attempts of one step have in common: the path, and where in it which turn was."""
        return self.path, tuple((i, e.turn.index) for i, e in enumerate(self.elements) if e.turn is not None)

    @property
    def attempts(self) -> tuple[int, ...]:
        """The attempt at each level: later tries compare greater."""
        return (self.attempt, *(e.attempt for e in self.elements))

    @property
    def role(self) -> Role:
        """A step inside a handler is part of the handler."""
        return next((e.role for e in reversed(self.elements) if e.role != "step"), "step")

    @property
    def is_try(self) -> bool:
        """True if the name ends in an attempt's number."""
        return self.attempts[-1] != NO_ATTEMPT


def place(name: str, workflow: str) -> Place:
    """The place of the node called `name` in `workflow`; a name that fits no rule is a path of its own."""
    if not workflow or not name.startswith(workflow):
        return _unknown(name)
    root = _ROOT.match(name, len(workflow))
    at = root.end() if root else len(workflow)
    elements: list[Element] = []
    while at < len(name):
        part = _PART.match(name, at)
        if part is None:
            return _unknown(name[len(workflow) :])
        _add(elements, part[1], part[2])
        at = part.end()
    return Place(elements=tuple(elements), attempt=_attempt(name[len(workflow) : root.end()]) if root else NO_ATTEMPT)


def _add(elements: list[Element], name: str, suffixes: str) -> None:
    attempt, turn = _attempt(suffixes), _turn(suffixes)
    owner = elements[-1] if elements else None
    prefix = f"{owner.name}." if owner else ""
    task, own = (owner.task, owner.turn) if owner else ("", None)
    if name == "onExit":
        handler = Element(name=prefix + name, task=task, turn=own or turn, attempt=attempt, role="exit-handler")
        elements[-1:] = [handler]
    elif owner is not None and owner.role == "hook" and owner.name.endswith("hooks"):
        elements[-1] = Element(name=prefix + name, task=task, turn=own or turn, attempt=attempt, role="hook")
    elif name == "hooks" and not suffixes:
        # Half of "<task>.hooks.<hook>"; the next part completes it.
        elements[-1:] = [Element(name=prefix + name, task=task, turn=own, role="hook")]
    else:
        elements.append(Element(name=name, task=name, turn=turn, attempt=attempt))


def _attempt(suffixes: str) -> int:
    plain = [int(n) for n, item in _SUFFIX.findall(suffixes) if not item]
    return plain[-1] if plain else NO_ATTEMPT


def _turn(suffixes: str) -> Turn | None:
    return next((Turn(index=int(n), item=item[1:]) for n, item in _SUFFIX.findall(suffixes) if item), None)


def _unknown(name: str) -> Place:
    shown = name.strip(".") or name
    return Place(elements=(Element(name=shown, task=shown),)) if shown else Place()
