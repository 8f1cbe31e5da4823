"""What the contract suite has to know of a tracker: how to reach it, and a second way to read it.

A new target comes with one driver and one line in conftest.py. Its oracle is the vendor's own client or reader, never
our code.
"""

from collections.abc import Sequence
from typing import Protocol

from pipetrail.record import Number
from pipetrail.targets.target import Held, Target


class Driver(Protocol):
    """One real tracker, and what is true of it and not a promise of every target.

    `url` is where it is called, None for one that is files; `create` and `write` end the paths of the calls that do so.
    `remembers_deleted`: it tells a run that someone deleted from one that never was. `apart`: a child that is not
    nested is shown beside its parent.
    """

    url: str | None
    create: str
    write: str
    remembers_deleted: bool
    apart: bool

    def target(self, url: str | None) -> Target:
        """Our target, calling `url` (the tracker itself, or a proxy before it)."""
        ...

    def oracle(self, experiment: str) -> Sequence[Held]:
        """Every run of `experiment` that is not deleted, whole, as the vendor's own client sees it."""
        ...

    def parent(self, held: Held) -> str:
        """The tracker's id of the run that the tracker shows `held` under; empty if none."""
        ...

    def stored(self, value: Number) -> Number:
        """`value` rounded as the tracker's numbers are, where that counts as no change (float32)."""
        ...
