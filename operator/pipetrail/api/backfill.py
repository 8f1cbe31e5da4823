"""Backfill: the wish for runs that had ended before their target was made, and what became of it.

The wish stands on the target as the annotation :data:`BACKFILL_ANNOTATION`, in JSON, because whoever may write a target
may ask for its older runs (docs/adr/0008). The answer stands in the target's status.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from pipetrail.api.model import GROUP, Model, doc, listed

BACKFILL_ANNOTATION: Final = f"{GROUP}/backfill"
MAX_WISH: Final = 4096
MAX_RATE: Final = 1000.0
BackfillSource = Literal["cluster", "archive"]
BackfillPhase = Literal["Listing", "Sending", "Done", "Refused"]


class BackfillWish(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs are asked for. `asked` tells two wishes apart, and is when it was made (RFC 3339).

    `since` is the earliest end of a run (empty: any), `namespace` the only one that is meant (empty: all that the
    target sees), `pipeline` a glob, `selector` labels of Workflows as kubectl writes them, and `rate` how many runs a
    second are taken up at most (0: as many as the target's own limits let through).
    """

    asked: datetime
    since: datetime | None = None
    namespace: str = ""
    pipeline: str = ""
    selector: str = ""
    rate: Annotated[float, msgspec.Meta(ge=0.0, le=MAX_RATE)] = 0.0
    sources: tuple[BackfillSource, ...] = ("cluster", "archive")

    @property
    def number(self) -> str:
        """`asked` as a status repeats it."""
        return self.asked.isoformat()

    def covers(self, other: "BackfillWish") -> bool:
        """True if whoever asks for `other` gets it with this one: it differs in nothing but how far it reaches back."""
        mine = msgspec.structs.replace(self, asked=other.asked, since=other.since, rate=other.rate)
        reaches = self.since is None or (other.since is not None and self.since <= other.since)
        return mine == other and reaches


def backfill_wish(text: str) -> BackfillWish:
    """The wish in an annotation; raises :class:`ValueError` that says what is wrong with it."""
    if len(text) > MAX_WISH:
        raise ValueError(f"it has more than {MAX_WISH} characters")
    wish = msgspec.json.decode(text, type=BackfillWish)
    for name, moment in (("asked", wish.asked), ("since", wish.since)):
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{name}: write the time with its zone, like 2026-01-02T03:04:05Z")
    return wish


class LeftOut(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Runs that a backfill left out for one reason."""

    rule: Annotated[str, doc("The rule, as pipetrail explain names it.", max_length=63)]
    runs: Annotated[int, doc("How many.", ge=0)] = 0


class Backfill(Model, frozen=True, kw_only=True, omit_defaults=False):
    """How far the last backfill of a target is."""

    asked: Annotated[str, doc("Which wish this is about.", max_length=253)]
    phase: Annotated[
        BackfillPhase,
        doc("Listing: its runs are being looked up. Sending: they are on their way. Refused: the message says why."),
    ]
    message: Annotated[str, doc("What is wrong, and the next step.", max_length=1000)] = ""
    chosen: Annotated[int, doc("Runs that the target takes.", ge=0)] = 0
    sent: Annotated[int, doc("Of these, runs that the tracker got now.", ge=0)] = 0
    already: Annotated[int, doc("Of these, runs that the tracker had already.", ge=0)] = 0
    failed: Annotated[int, doc("Of these, runs that were given up; kubectl get trun shows why.", ge=0)] = 0
    left: Annotated[
        tuple[LeftOut, ...], listed("Runs that were left out, by the rule.", most=20, kind="map", key="rule")
    ] = ()

    @property
    def over(self) -> bool:
        """Nothing more comes of it."""
        return self.phase in ("Done", "Refused")


def backfill_of(status: Any) -> Backfill | None:
    """What a target's status says of its last backfill; null if nothing that can be read."""
    try:
        return msgspec.convert(status["backfill"], Backfill)
    except (KeyError, TypeError, msgspec.ValidationError):
        return None
