"""Where objects stand in the API."""

from collections.abc import Sequence
from typing import Final

from pipetrail.shards import WHOLE, Share

TRACKED_RUNS: Final = "/apis/pipetrail.dev/v1alpha1"
ARGO: Final = "/apis/argoproj.io/v1alpha1"


def collections(root: str, plural: str, namespaces: Sequence[str] = (), share: Share = WHOLE) -> tuple[str, ...]:
    """Paths of the lists of a kind: one for the whole cluster or, if some are named, one for each that is ours."""
    if not namespaces:
        return (f"{root}/{plural}",)
    return tuple(f"{root}/namespaces/{name}/{plural}" for name in namespaces if share.owns(name))
