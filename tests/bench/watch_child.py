"""A process that watches Workflows: as the operator does, or with kopf as it comes. `ours|kopf NAMESPACE [CONTEXT]`."""

import asyncio
import gc
import sys
from typing import Any

import kopf
from tests.bench.child import answer, cpu_s

from pipetrail import observe
from pipetrail.controller import app
from pipetrail.controller.watches import Watches
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings


async def ours(namespace: str, context: str | None) -> None:
    """Watches, Sink and Dispatch as :func:`pipetrail.controller.app.run` puts them together."""
    observe.configure(form="json", level="warning")
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    answer(lambda: {"cpu": cpu_s(), "events": observe.counts["events_workflow"]})
    settings = Settings(watch_namespaces=(namespace,))
    async with await Kube.connect(context) as kube:
        dispatch = Dispatch(kube, Ledger(kube, "bench"), LiveReader(kube), settings, "bench")
        await Watches(settings, context, dispatch, await app.served(kube)).run()


async def plain(namespace: str, context: str | None) -> None:
    """kopf with its defaults and a handler that does nothing."""
    seen = 0
    registry = kopf.OperatorRegistry()
    answer(lambda: {"cpu": cpu_s(), "events": seen})
    async with await Kube.connect(context) as kube:

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return kopf.ConnectionInfo(**await kube.login.credentials())

        @kopf.on.event("argoproj.io/v1alpha1", "workflows", registry=registry)
        async def nothing(**_: Any) -> None:
            nonlocal seen
            seen += 1

        await kopf.operator(registry=registry, namespaces=[namespace], standalone=True)


if __name__ == "__main__":
    which, where = sys.argv[1:3]
    asyncio.run({"ours": ours, "kopf": plain}[which](where, sys.argv[3] if len(sys.argv) > 3 else None))
