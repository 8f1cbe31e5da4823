"""What the operator and its Neptune worker say to each other: one JSON object a line, calls down, words up.

The operator sends :class:`Setup` first, then one call at a time. The worker answers each with an :class:`Answer` or a
:class:`Trouble` of the same number, and says a :class:`Beat` every second whatever else it does. The token comes over
the pipe: arguments and environments of processes can be read by others.
"""

from typing import Final, Literal

import msgspec

from pipetrail.record import Frozen

BEAT_S: Final = 1.0
LINE_MOST: Final = 32 << 20
PAGE_POINTS: Final = 10_000


class Setup(Frozen, frozen=True):
    """The first line. `memory` is the most address space that the worker may take, in bytes (0: no limit).

    `allowed` and `api_server` are those of targets/addresses.py, as text.
    """

    server_uri: str
    project: str
    token: str
    http_s: float = 20.0
    allowed: tuple[str, ...] = ()
    api_server: tuple[tuple[str, int | None], ...] = ()
    memory: int = 0

    def __repr__(self) -> str:
        """Without the token."""
        return f"Setup({self.server_uri!r}, {self.project!r}, token=<redacted>)"


class AssignText(Frozen, frozen=True, tag="text"):
    """A text at `path`."""

    path: str
    value: str


class AssignNumber(Frozen, frozen=True, tag="number"):
    """A number at `path`: an int attribute of 32 bits or a float one."""

    path: str
    value: int | float


class AssignFlag(Frozen, frozen=True, tag="flag"):
    """True or false at `path`."""

    path: str
    value: bool


class AssignTime(Frozen, frozen=True, tag="time"):
    """A time at `path`, in milliseconds since 1970."""

    path: str
    ms: int


class Append(Frozen, frozen=True, tag="append"):
    """Points (value, step, milliseconds since 1970) at the end of the series at `path`."""

    path: str
    points: tuple[tuple[float, float, int], ...]


class Delete(Frozen, frozen=True, tag="delete"):
    """Take away the attribute at `path`."""

    path: str


Operation = AssignText | AssignNumber | AssignFlag | AssignTime | Append | Delete


class Check(Frozen, frozen=True, tag="check"):
    """Log in and look up the project. Answered with :class:`Project`."""


class Search(Frozen, frozen=True, tag="search"):
    """The ids of all runs whose text at `path` is `value`, in the trash or not. Answered with :class:`Ids`."""

    path: str
    value: str


class Create(Frozen, frozen=True, tag="create"):
    """The run with the id that we chose, made if it is not there. Answered with :class:`Run`."""

    custom_id: str


class Get(Frozen, frozen=True, tag="get"):
    """The run `id`: Neptune's own (a UUID) or the short one that people see. Answered with :class:`Run`."""

    id: str


class Attributes(Frozen, frozen=True, tag="attributes"):
    """All attributes of a run, of a series its last value. Answered with :class:`Found`."""

    run: str


class Series(Frozen, frozen=True, tag="series"):
    """A page of a series' points. Answered with :class:`Points`."""

    run: str
    path: str
    offset: int = 0


class Operate(Frozen, frozen=True, tag="operate"):
    """Operations on a run, in one request that is never repeated. Answered with :class:`Errors`."""

    run: str
    operations: tuple[Operation, ...]


class Upload(Frozen, frozen=True, tag="upload"):
    """A file at `path`, over one that is there. Answered with :class:`Errors`."""

    run: str
    path: str
    extension: str
    data: bytes


class Trash(Frozen, frozen=True, tag="trash"):
    """Put a run (its short id) into the trash. Answered with :class:`Errors`."""

    id: str


Call = Check | Search | Create | Get | Attributes | Series | Operate | Upload | Trash


class Project(Frozen, frozen=True, tag="project"):
    """The project is there; `version` is the client that speaks to it, since the server names none."""

    version: str


class Ids(Frozen, frozen=True, tag="ids"):
    """Neptune's own ids of runs."""

    ids: tuple[str, ...]


class Run(Frozen, frozen=True, tag="run"):
    """A run: Neptune's own id, the short one for people (PIPE-12), and whether someone put it into the trash."""

    id: str
    short: str
    trashed: bool


class Attribute(Frozen, frozen=True):
    """One attribute; `value` is null for files, of a series the last one, of a time milliseconds since 1970."""

    path: str
    type: str
    value: str | int | float | bool | None = None


class Found(Frozen, frozen=True, tag="found"):
    """The attributes of a run."""

    attributes: tuple[Attribute, ...]
    trashed: bool


class Points(Frozen, frozen=True, tag="points"):
    """Points as value, step, milliseconds since 1970; `total` is how many the series has."""

    points: tuple[tuple[float, float, int], ...]
    total: int


class Errors(Frozen, frozen=True, tag="errors"):
    """What the server took the call for, but not all that was in it. Empty: all is well."""

    errors: tuple[str, ...] = ()


Result = Project | Ids | Run | Found | Points | Errors


class Request(Frozen, frozen=True):
    """A numbered call."""

    number: int
    call: Call


class Answer(Frozen, frozen=True, tag="answer"):
    """The call did what it should."""

    number: int
    result: Result
    rss: int = 0


class Trouble(Frozen, frozen=True, tag="trouble"):
    """The call did not. `kind` is the error of targets/target.py; *rejected*: the server understands and refuses it.

    `doubtful` is true where the server may have done it all the same.
    """

    number: int
    kind: Literal["retry", "unauthorised", "unusable", "refused", "rejected"]
    reason: str
    message: str
    after_s: float | None = None
    doubtful: bool = False
    rss: int = 0


class Beat(Frozen, frozen=True, tag="beat"):
    """The worker lives; `rss` is the memory that it holds, in bytes."""

    rss: int


Word = Answer | Trouble | Beat

encode: Final = msgspec.json.Encoder().encode
SETUP: Final = msgspec.json.Decoder(Setup)
REQUESTS: Final = msgspec.json.Decoder(Request)
WORDS: Final = msgspec.json.Decoder(Word)
