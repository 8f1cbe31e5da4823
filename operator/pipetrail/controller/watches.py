"""The watches: our own streams for what is busy, kopf for what is ours.

Workflows, their pods and their results are read by :class:`~pipetrail.controller.streams.Streams` in the delivery's
own loop: an event costs a fraction of what it costs through kopf, and a watch goes on where it ended. Targets and
namespaces change seldom; those kopf watches (ADR 0006).
"""

import asyncio
from collections.abc import Mapping

from pipetrail.controller.kopf_thread import KopfThread
from pipetrail.controller.stream import Pulse
from pipetrail.controller.streams import Kinds, Streams
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.kube import Kube
from pipetrail.settings import Settings

__all__ = ["Kinds", "Pulse", "Watches"]


class Watches:
    """Everything that is watched. `start_at` names versions, by collection, that a process before us had reached;
    `known_at` versions up to which all is known already.
    """

    def __init__(
        self, settings: Settings, context: str | None, dispatch: Dispatch, kinds: Kinds, *,
        start_at: Mapping[str, str] | None = None, known_at: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._context = context
        self._kinds = kinds
        self.kopf = KopfThread(context, settings.watch_namespaces, dispatch, kinds)
        self._streams = Streams(dispatch, kinds, settings.watch_namespaces, start_at=start_at, known_at=known_at)

    @property
    def kinds(self) -> Kinds:
        """What is being watched now."""
        return self._kinds

    @property
    def restarts(self) -> int:
        """How often kopf or a watch ended before its time."""
        return self.kopf.restarts + sum(pulse.restarts for pulse in self.pulses())

    def pulses(self) -> tuple[Pulse, ...]:
        """How each of our own watches stands; to be asked in the loop that runs them."""
        return self._streams.pulses()

    def told(self) -> bool:
        """True once the watches of runs have told all that they missed before us."""
        return all(pulse.listed for pulse in self.pulses() if pulse.path.endswith("/workflows"))

    async def run(self) -> None:
        """Watch until cancelled."""
        async with await Kube.connect(self._context, connections=0) as kube, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.kopf.run(), name="kopf")
            tasks.create_task(self._streams.run(kube), name="streams")

    def watch(self, kinds: Kinds) -> None:
        """Watch other kinds from now on. Those that stay are watched on."""
        self._kinds = kinds
        self.kopf.watch(kinds)
        self._streams.watch(kinds)

    def stop(self) -> None:
        """Ask kopf to end, which takes it a moment; the streams end when :meth:`run` is cancelled."""
        self.kopf.stop()
