"""The watches: our own streams for what is busy, kopf for what is ours.

Workflows, their pods and their results are read by :class:`~pipetrail.controller.stream.Stream`, one for each kind and
for each namespace that is named, in the delivery's own loop: an event costs a twentieth of what it costs through kopf,
and a watch goes on where it ended. Targets and namespaces change seldom; those kopf watches (ADR 0006).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from pipetrail.controller.kopf_thread import Kinds, KopfThread
from pipetrail.controller.news import News, PodNews, ResultNews, RunNews
from pipetrail.controller.stream import Collection, Pulse, Stream
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.kube import ARGO, Kube, collections
from pipetrail.settings import Settings
from pipetrail.sources.argo import glimpse

__all__ = ["COMPLETE_RESULTS", "ENDED_PODS", "RUN_PODS", "Kinds", "Pulse", "Watches"]

RUN_PODS: Final = "workflows.argoproj.io/workflow"
ENDED_PODS: Final = "status.phase!=Pending,status.phase!=Running"
COMPLETE_RESULTS: Final = "workflows.argoproj.io/report-outputs-completed=true"


class _Kind(NamedTuple):
    """What a stream of one kind is made of. `root` is the path of its API."""

    group: str
    root: str
    plural: str
    query: Mapping[str, str]
    glimpse: glimpse.Glimpse
    news: Callable[[Dispatch], News]


KINDS: Final = (
    _Kind("argoproj.io", ARGO, "workflows", {}, glimpse.WORKFLOW, RunNews),
    _Kind("", "/api/v1", "pods", {"labelSelector": RUN_PODS, "fieldSelector": ENDED_PODS}, glimpse.POD, PodNews),
    _Kind("argoproj.io", ARGO, "workflowtaskresults", {"labelSelector": COMPLETE_RESULTS}, glimpse.RESULT, ResultNews),
)


class Watches:
    """Everything that is watched. `start_at` names versions, by collection, from which a process before us watched."""

    def __init__(
        self, settings: Settings, context: str | None, dispatch: Dispatch, kinds: Kinds, *,
        start_at: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._namespaces = settings.watch_namespaces
        self._context = context
        self._dispatch = dispatch
        self._kinds = kinds
        self._start_at = dict(start_at or {})
        self._kopf = KopfThread(context, settings.watch_namespaces, dispatch, kinds)
        self._streams: dict[str, tuple[Stream, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    @property
    def kinds(self) -> Kinds:
        """What is being watched now."""
        return self._kinds

    @property
    def restarts(self) -> int:
        """How often kopf or a watch ended before its time."""
        return self._kopf.restarts + sum(pulse.restarts for pulse in self.pulses())

    def pulses(self) -> tuple[Pulse, ...]:
        """How each of our own watches stands; to be asked in the loop that runs them."""
        return tuple(stream.pulse() for stream, _ in self._streams.values())

    def versions(self) -> dict[str, str]:
        """Where each watch would go on, by collection: what `start_at` takes. Without those that have no list yet."""
        return {pulse.path: pulse.version for pulse in self.pulses() if pulse.version and pulse.listed}

    async def run(self) -> None:
        """Watch until cancelled."""
        async with await Kube.connect(self._context, connections=0) as kube, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kopf.run(), name="kopf")
            while True:
                self._changed.clear()
                self._fit(kube, tasks)
                await self._changed.wait()

    def _fit(self, kube: Kube, tasks: asyncio.TaskGroup) -> None:
        """Start the streams that are wanted and not there, end those that are there and not wanted."""
        wanted = {
            path: kind
            for kind in KINDS
            if (kind.group, kind.plural) in self._kinds
            for path in collections(kind.root, kind.plural, self._namespaces)
        }
        for path in self._streams.keys() - wanted.keys():
            self._streams.pop(path)[1].cancel()
        for path in wanted.keys() - self._streams.keys():
            kind = wanted[path]
            stream = Stream(
                kube, Collection(path=path, query=kind.query), kind.glimpse, kind.news(self._dispatch),
                gap=self._dispatch.survey.due.set, version=self._start_at.pop(path, ""),
            )  # fmt: skip
            self._streams[path] = (stream, tasks.create_task(stream.run(), name=path))

    def watch(self, kinds: Kinds) -> None:
        """Watch other kinds from now on. Those that stay are watched on."""
        self._kinds = kinds
        self._kopf.watch(kinds)
        self._changed.set()

    def stop(self) -> None:
        """Ask kopf to end, which takes it a moment; the streams end when :meth:`run` is cancelled."""
        self._kopf.stop()
