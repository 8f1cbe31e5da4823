"""The contract between us and a tracker.

A target is given *tracker runs* (mapping.md: what a user shall see), never a source's objects. Everything that may
fail is one of the errors below; everything that the tracker could not hold comes back as a :class:`Change`. A target
keeps no state about runs: the ledger and the plan do.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal, Protocol

from pipetrail.record import Figure, Frozen, Number

RunStatus = Literal["Running", "Finished", "Failed", "Killed"]


class Change(Frozen, frozen=True):
    """Something that arrives otherwise than the source has it, and by which rule (`reason` in CamelCase)."""

    item: Literal["param", "metric", "tag", "name", "note", "file", "figure", "run"]
    key: str
    reason: str
    detail: str = ""
    run: str = ""


class Metric(Frozen, frozen=True):
    """One point as a tracker is told it; `time_ms` is milliseconds since 1970 UTC."""

    key: str
    value: Number
    step: int
    time_ms: int


class File(Frozen, frozen=True):
    """A small file that belongs to the run (``pipetrail/artifacts.json``)."""

    path: str
    media_type: str
    data: bytes


class Plot(Frozen, frozen=True):
    """A figure under the name that it has in the tracker run (``train/confusion_matrix``); a target draws it."""

    path: str
    figure: Figure
    time_ms: int


class TrackerRun(Frozen, frozen=True):
    """What a tracker is given for a run or, in a child, for a turn of a loop.

    `key` identifies it for ever; `root` is the key of the tree's parent (its own key on the parent). `user`,
    `source_name` and `commit` are what each tracker has a place of its own for. `note` is markdown.
    """

    key: str
    root: str
    experiment: str
    name: str
    status: RunStatus
    started: datetime
    finished: datetime | None = None
    nested: bool = True
    user: str | None = None
    source_name: str | None = None
    commit: str | None = None
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    metrics: tuple[Metric, ...] = ()
    note: str = ""
    files: tuple[File, ...] = ()
    figures: tuple[Plot, ...] = ()
    changes: tuple[Change, ...] = ()


class Tree(Frozen, frozen=True):
    """The tracker runs of one pipeline run: a parent and its children in the order in which they are shown."""

    parent: TrackerRun
    children: tuple[TrackerRun, ...] = ()

    @property
    def runs(self) -> tuple[TrackerRun, ...]:
        """Parent first."""
        return (self.parent, *self.children)


class Handle(Frozen, frozen=True):
    """Where the tracker keeps a tracker run: its id there, the experiment's id, and the address for people."""

    id: str
    experiment_id: str = ""
    url: str = ""
    artifacts: str = ""


class Held(Frozen, frozen=True):
    """A tracker run as the tracker holds it. `whole` is false where only the latest point of each key was read.

    `figures` names the paths of those that are there, for trackers where sending one again would double it.
    """

    key: str
    handle: Handle
    name: str
    status: RunStatus
    started_ms: int
    finished_ms: int | None = None
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    metrics: tuple[Metric, ...] = ()
    note: str = ""
    figures: frozenset[str] = frozenset()
    whole: bool = False


class Batch(Frozen, frozen=True):
    """What is still to be sent to one tracker run (plan.py makes it). Empty fields are not sent."""

    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    metrics: tuple[Metric, ...] = ()
    files: tuple[File, ...] = ()
    figures: tuple[Plot, ...] = ()
    note: str | None = None
    status: RunStatus | None = None
    finished: datetime | None = None

    @property
    def empty(self) -> bool:
        """True if there is nothing to send."""
        return self == Batch()


class Receipt(Frozen, frozen=True):
    """What a write could not place, item by item; all that is not named here has arrived."""

    changes: tuple[Change, ...] = ()


class Health(Frozen, frozen=True):
    """The tracker answers as the tracker that it should be; `version` is its own word."""

    version: str = ""


class Capabilities(Frozen, frozen=True):
    """What a tracker can hold; docs/targets.md is generated from this.

    `replay` says what sending a point again does: *Idempotent* trackers keep one, others must be read back first.
    `figures` says what becomes of each kind of figure; empty where the tracker has no place for any.
    `limits` maps a thing to a sentence about its limit and what is done beyond it.
    """

    name: str
    replay: Literal["Idempotent", "ReadBack"]
    client_chosen_id: bool
    original_times: bool
    children: bool
    reopen: bool
    figures: str
    nan: bool
    limits: Mapping[str, str] = {}


class TargetError(Exception):
    """What a call to a tracker can end in other than success. `reason` is CamelCase, the text is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Retry(TargetError):
    """It may work later. `doubtful` is true where the call may have taken effect all the same."""

    def __init__(self, reason: str, message: str, *, after_s: float | None = None, doubtful: bool = False) -> None:
        super().__init__(reason, message)
        self.after_s = after_s
        self.doubtful = doubtful


class Unauthorised(TargetError):
    """The tracker does not accept us: the lane waits for other credentials."""


class Unusable(TargetError):
    """The address or its settings are wrong (not this tracker, TLS, Host header): the lane waits for an edit."""


class Refused(TargetError):
    """This tracker run will never be accepted (someone deleted it, or its experiment): a dead letter."""


class Target(Protocol):
    """One tracker at one address. All methods raise :class:`TargetError` and nothing else. A target derives from it."""

    capabilities: ClassVar[Capabilities]

    def fit(self, run: TrackerRun) -> TrackerRun:
        """`run` as the tracker can hold it, each difference in `changes`. Pure, and idempotent."""
        ...

    def describe(self, run: TrackerRun, children: Sequence[Handle]) -> str:
        """The note with the links that need the children's handles (the compare page). Pure."""
        ...

    async def check(self) -> Health:
        """Is it there, is it the right kind, does it let us in?"""
        ...

    async def find(self, run: TrackerRun) -> Sequence[Held]:
        """All tracker runs that carry the root key of `run`, parent and children, oldest first (not whole)."""
        ...

    async def open(self, run: TrackerRun, parent: Handle | None) -> Handle:
        """Create it, key and tags in the same call. Never called twice without a `find` in between."""
        ...

    async def write(self, handle: Handle, batch: Batch) -> Receipt:
        """Send `batch`. A rejected item is isolated and named in the receipt; the rest arrives."""
        ...

    async def discard(self, handle: Handle) -> None:
        """Delete a double of ours (two creates of one key committed)."""
        ...

    async def read(self, handle: Handle) -> Held:
        """All that the tracker holds of it, every point (for verify, and after a restart where replay needs it)."""
        ...

    async def kept(self, handle: Handle, sent: Sequence[File]) -> frozenset[str]:
        """The paths of those of `sent` that it holds as they are; fewer where it can't tell: those are sent again.

        None, unless a target looks: a file that is sent again is the same file.
        """
        del handle, sent
        return frozenset()

    async def close(self) -> None:
        """Give connections back."""
        ...
