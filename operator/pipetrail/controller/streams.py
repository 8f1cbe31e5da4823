"""All that is watched of runs: a stream for each kind, and for each namespace if some are named."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from pipetrail import api
from pipetrail.controller.news import LedgerNews, News, PodNews, ResultNews, RunNews, TrackedRun
from pipetrail.controller.stream import Collection, Pulse, Stream
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.kube import ARGO, TRACKED_RUNS, Kube, collections
from pipetrail.sources.argo import glimpse

RUN_PODS: Final = "workflows.argoproj.io/workflow"
ENDED_PODS: Final = "status.phase!=Pending,status.phase!=Running"
COMPLETE_RESULTS: Final = "workflows.argoproj.io/report-outputs-completed=true"
Kinds = frozenset[tuple[str, str]]  # (group, plural) of what the API server has


class _Kind(NamedTuple):
    """What a stream of one kind is made of. `root` is the path of its API; the server selects by `query`."""

    group: str
    root: str
    plural: str
    query: Mapping[str, str]
    glimpse: glimpse.Glimpse
    news: Callable[[Dispatch], News]


_KINDS: Final = (
    _Kind("argoproj.io", ARGO, "workflows", {}, glimpse.WORKFLOW, RunNews),
    _Kind("", "/api/v1", "pods", {"labelSelector": RUN_PODS, "fieldSelector": ENDED_PODS}, glimpse.POD, PodNews),
    _Kind("argoproj.io", ARGO, "workflowtaskresults", {"labelSelector": COMPLETE_RESULTS}, glimpse.RESULT, ResultNews),
    _Kind(api.GROUP, TRACKED_RUNS, "trackedruns", {}, glimpse.Glimpse(TrackedRun), LedgerNews),
)


class Streams:
    """Runs the streams of `kinds`. `start_at` names versions, by collection, that a process before us had reached;
    `known_at` versions up to which all is known already.
    """

    def __init__(
        self, dispatch: Dispatch, kinds: Kinds, namespaces: Sequence[str] = (), *,
        start_at: Mapping[str, str] | None = None, known_at: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._dispatch = dispatch
        self._namespaces = namespaces
        self._kinds = kinds
        self._start_at = dict(start_at or {})
        self._known_at = dict(known_at or {})
        self._running: dict[str, tuple[Stream, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def pulses(self) -> tuple[Pulse, ...]:
        """How each watch stands; to be asked in the loop that runs them."""
        return tuple(stream.pulse() for stream, _ in self._running.values())

    def watch(self, kinds: Kinds) -> None:
        """Watch other kinds from now on. Those that stay are watched on."""
        self._kinds = kinds
        self._changed.set()

    async def run(self, kube: Kube) -> None:
        """Watch until cancelled. Each stream holds a connection of `kube`."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                self._fit(kube, tasks)
                await self._changed.wait()

    def _fit(self, kube: Kube, tasks: asyncio.TaskGroup) -> None:
        """Start the streams that are wanted and not there, end those that are there and not wanted."""
        wanted = {
            path: kind
            for kind in _KINDS
            if (kind.group, kind.plural) in self._kinds
            for path in collections(kind.root, kind.plural, self._namespaces, self._dispatch.share)
        }
        for path in self._running.keys() - wanted.keys():
            self._running.pop(path)[1].cancel()
        for path, kind in wanted.items():
            if path not in self._running:
                known, began = self._known_at.pop(path, ""), self._start_at.pop(path, "")
                collection = Collection(path=path, query=kind.query, share=self._dispatch.share)
                stream = Stream(
                    kube, collection, kind.glimpse, kind.news(self._dispatch),
                    gap=self._dispatch.survey.due.set, version=known or began, known=bool(known),
                )  # fmt: skip
                self._running[path] = (stream, tasks.create_task(stream.run(), name=path))
