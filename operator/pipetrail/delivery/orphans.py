"""Orphans: runs that are not settled and whose object is gone, though nobody saw it go. When are they too many?

A few are runs that people or Argo's TTL deleted while we were away: they are closed as killed. Many at once look like a
mishap that may be mended (CRDs removed, a restore that is not over yet, a wrong cluster): closing them would say of
live runs that they were killed, for good. So they are held, target by target, until they are back or someone confirms.
"""

from typing import Final

from pipetrail.api import TargetRef

LEAST: Final = 20
SHARE: Final = 0.2


def bearable(unsettled: int) -> float:
    """How many of so many unsettled runs may be gone in one pass without being held."""
    return max(LEAST, SHARE * unsettled)


def message(ref: TargetRef, gone: int, *, complete: bool) -> str:
    """What the condition says; `complete` is false if the API server has no Workflows at all."""
    where = f" -n {ref.namespace}" if ref.namespace else ""
    why = "more at once than looks meant" if complete else "and the API server knows no Workflows at all"
    return (
        f"{gone} unsettled runs are gone, {why}: none of them is closed. If they come back this is over; if they are "
        f"gone for good: pipetrail confirm-close {ref.name}{where}"
    )
