"""What runs were made from, as far as it decides about them: labels and annotations of templates and CronWorkflows.

They are got by name when a run's intent is about to be written, not watched: a run asks once, and the runs of a cron or
a sweep share the answer for a minute.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from pipetrail.kube import Kube
from pipetrail.readers import argo as objects
from pipetrail.sources import argo

KEPT_S: Final = 60.0
MOST: Final = 1_000

Key = tuple[str, str, str, str]


class Templates:
    """Labels and annotations that were got within the last minute."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._known: OrderedDict[Key, tuple[float, Mapping[str, Any]]] = OrderedDict()

    async def learn(self, header: argo.Header) -> None:
        """Get what the run of `header` was made from, if it is not known. Raises :class:`KubeError`."""
        key = _key(header)
        if not any(key[1:]) or self._fresh(key) is not None:
            return
        self._known[key] = (_now(), await objects.made_from(self._kube, header))
        self._known.move_to_end(key)
        while len(self._known) > MOST:
            self._known.popitem(last=False)

    def of(self, header: argo.Header) -> Mapping[str, Any]:
        """The labels and annotations of what the run was made from; empty where nobody asked lately."""
        return self._fresh(_key(header)) or {}

    def _fresh(self, key: Key) -> Mapping[str, Any] | None:
        got_at, known = self._known.get(key, (0.0, None))
        return known if known is not None and _now() - got_at < KEPT_S else None


def _key(header: argo.Header) -> Key:
    return header.namespace, header.workflow_template, header.cluster_workflow_template, header.cron


def _now() -> float:
    return asyncio.get_running_loop().time()
