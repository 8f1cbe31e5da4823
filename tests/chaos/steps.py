"""The steps of a schedule: what can be done to the operator and all around it. Data alone."""

from typing import Final, Literal

from tests.e2e.trap import Call, Moment, When

from pipetrail.record import Frozen

Tracker = Literal["mlflow", "neptune", "second"]
How = Literal[
    "429", "429 in 2 s", "429 at a date", "500", "502", "503", "502, though done", "reset", "reset, though done",
    "cut, though done", "garbage", "garbage, though done", "a page, though done", "stall", "stall, though done", "late",
]  # fmt: skip
QUICK: Final[tuple[How, ...]] = (
    "429", "429 in 2 s", "429 at a date", "500", "502", "503", "502, though done", "reset", "reset, though done",
    "cut, though done", "garbage", "garbage, though done",
)  # fmt: skip
SLOW: Final[tuple[How, ...]] = ("stall", "stall, though done", "a page, though done")
PATHS: Final[dict[Tracker, tuple[str, ...]]] = {
    "mlflow": ("/runs/create", "/runs/log-batch", "/runs/update", "/runs/search"),
    "neptune": ("/v1/experiments", "/attributes/operations", "/entries/search", "/v1/attributes"),
}
Fate = Literal["stands", "deleted while it runs", "deleted after its end", "TTL 0", "ends with its namespace"]
AT_THE_END: Final[tuple[Fate, ...]] = ("deleted after its end", "TTL 0")
Home = Literal[0, 1]
"""Which of two namespaces a run is in: what two shards divide. The short form has one."""


class Planned(Frozen, frozen=True):
    """A run that will be submitted: `shape` is a recording or made; it is played so that it lasts `lasts_s`."""

    name: str
    shape: str
    lasts_s: float
    fate: Fate = "stands"
    home: Home = 0


class Submit(Frozen, frozen=True):
    """A burst of runs, `per_s` a second."""

    at_s: float
    runs: tuple[Planned, ...]
    per_s: float

    def __str__(self) -> str:
        return f"{len(self.runs)} runs at {self.per_s:.0f}/s"


class Kill(Frozen, frozen=True):
    """kill -9 at a moment; `bait` is a run that will make the call that is waited for; `shard`: of two the one."""

    at_s: float
    call: Call | None
    when: When = "before"
    bait: Planned | None = None
    shard: int | None = None

    @property
    def moment(self) -> Moment:
        """As the trap takes it."""
        return Moment(self.call, self.when)

    def __str__(self) -> str:
        return f"kill -9{'' if self.shard is None else f' of shard {self.shard}'}, {self.moment}"


class Odd(Frozen, frozen=True):
    """The next `times` calls to a tracker whose path ends in `path` are answered so."""

    at_s: float
    tracker: Tracker
    path: str
    how: How
    times: int

    def __str__(self) -> str:
        return f"{self.tracker}: {self.times} × {self.how} on …{self.path}"


class Away(Frozen, frozen=True):
    """Trackers can't be reached; `killed`: the server's process is killed, and started again."""

    at_s: float
    trackers: tuple[Tracker, ...]
    for_s: float
    killed: bool = False

    def __str__(self) -> str:
        return f"{' and '.join(self.trackers)} {'killed, back in' if self.killed else 'away for'} {self.for_s:.0f} s"


class ApiRestart(Frozen, frozen=True):
    """The API server restarts; `compacted`: etcd forgets its history before, so that watches are told 410."""

    at_s: float
    compacted: bool

    def __str__(self) -> str:
        return f"{'etcd is compacted and ' if self.compacted else ''}the API server restarts"


class Rotate(Frozen, frozen=True):
    """MLflow takes a new token only; the Secret has it `for_s` later."""

    at_s: float
    for_s: float

    def __str__(self) -> str:
        return f"MLflow's token is another, the Secret has it {self.for_s:.0f} s later"


class DiskFull(Frozen, frozen=True):
    """TensorBoard's volume is full."""

    at_s: float
    for_s: float

    def __str__(self) -> str:
        return f"TensorBoard's disk is full for {self.for_s:.0f} s"


class Deletions(Frozen, frozen=True):
    """Runs that are deleted, while they run or after their end, or at it by a TTL of 0; all begin at once."""

    at_s: float
    runs: tuple[Planned, ...]

    def __str__(self) -> str:
        return f"{len(self.runs)} runs begin that are deleted: while they run, after their end, at it by TTL 0"


class NamespaceEnds(Frozen, frozen=True):
    """Runs in a namespace of their own, which is then deleted with all that is in it."""

    at_s: float
    runs: tuple[Planned, ...]

    def __str__(self) -> str:
        return f"a namespace with {len(self.runs)} runs is deleted"


class Split(Frozen, frozen=True):
    """The operator is stopped, and two shards begin in its place."""

    at_s: float

    def __str__(self) -> str:
        return "one operator becomes two shards"


class Join(Frozen, frozen=True):
    """Both shards are stopped, and one operator begins in their place."""

    at_s: float

    def __str__(self) -> str:
        return "two shards become one operator"


Step = Submit | Kill | Odd | Away | ApiRestart | Rotate | DiskFull | Deletions | NamespaceEnds | Split | Join
