"""What a capture takes, as a target's policy says it, and how much of it."""

from typing import Final, Literal

from pipetrail.api import Policy
from pipetrail.record import Frozen

Logs = Literal["OnFailure", "Always", "Never"]


class Wants(Frozen, frozen=True):
    """What is to be fetched. `include` and `exclude` are globs on ``artifact/file``; exclude goes first."""

    files: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stdout: bool = False
    logs: Logs = "OnFailure"
    figures: bool = True


EVERYTHING: Final = Wants(stdout=True)


class Limits(Frozen, frozen=True):
    """Bounds of one capture of one run."""

    fetches: int = 2_000  #: files and logs that are not known yet
    at_once: int = 8
    bytes: int = 512 << 20  #: of all that is fetched
    points: int = 500_000  #: of all files and logs
    seconds: float = 300.0


DEFAULT: Final = Limits()


def wants(policy: Policy) -> Wants:
    """What a target's pinned policy asks for."""
    chosen = policy.capture
    return Wants(
        files=chosen.metrics != "None",
        include=chosen.files.include,
        exclude=chosen.files.exclude,
        stdout=chosen.stdout == "On" and chosen.metrics != "None",
        logs=chosen.logs,
        figures=chosen.figures != "None",
    )
