"""What the contract suite has to know of a tracker: how to reach it, and a second way to read it.

A new target comes with one driver. Its oracle is the vendor's own client or reader, never our code.
"""

from collections.abc import Sequence
from typing import Protocol

from pipetrail.targets.target import Held, Target


class Driver(Protocol):
    """One real tracker. `url` is where it is; `create` and `write` end the paths of the calls that do so."""

    url: str
    create: str
    write: str

    def target(self, url: str) -> Target:
        """Our target, calling `url` (the tracker itself, or a proxy before it)."""
        ...

    def oracle(self, experiment: str) -> Sequence[Held]:
        """Every run of `experiment` that is not deleted, whole, as the vendor's own client sees it."""
        ...

    def parent(self, held: Held) -> str:
        """The tracker's id of the run that the tracker shows `held` under; empty if none."""
        ...
