"""Is the operator alive, is it working, and what has it done: one small HTTP server in its own loop.

| path | 200 means | else 503, with what is wrong, a line each |
|---|---|---|
| /healthz | the loop turns (who is stuck does not answer) and what watches is there | a restart would help |
| /readyz | the Lease is held, and all lists of the start are done | it waits, or the API server is away |
| /metrics | counters and how it stands | |

An API server that is away is no reason to be restarted: what only this process remembers would be lost. So /healthz
asks for our own parts alone.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pipetrail.controller.lease import Lease
from pipetrail.controller.metrics import Page, Stand, registry
from pipetrail.controller.shares import Shares
from pipetrail.controller.watches import Watches
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.kube import KubeError

CLOSING_S: Final = 2.0
DEAF_S: Final = 90.0
"""kopf ends and is started again within 30 s; a loop that is silent for longer is stuck."""


class Health:
    """What there is so far of the operator; who builds it sets each part when it is there."""

    def __init__(self, lease: Lease | None, shares: Shares | None = None) -> None:
        self.lease = lease
        self.shares = shares
        self.dispatch: Dispatch | None = None
        self.watches: Watches | None = None

    def ills(self) -> list[str]:
        """What only a restart mends."""
        silent_s = 0.0 if self.watches is None else self.watches.kopf.silent_s
        return [f"kopf's loop has not turned for {silent_s:.0f} s"] if silent_s > DEAF_S else []

    def lacks(self) -> list[str]:
        """What is missing for work."""
        found = []
        if self.lease is not None and not self.lease.held:
            found.append(f"the Lease is held by {self.lease.holder}" if self.lease.holder else "the Lease is not held")
        if self.shares is not None and self.shares.idle:
            return found  # a shard that there is nothing for does all that it should
        if self.shares is not None and self.shares.waits_for:
            return [*found, f"it waits for other shards: {self.shares.waits_for}"]
        if self.dispatch is None or self.watches is None:
            return [*found, "the ledger and the targets have not been read"]
        if not self.dispatch.survey.passes:
            found.append("the runs of the cluster have not been listed")
        if not self.watches.kopf.watching:
            found.append("targets and namespaces are not being watched")
        watches = self.watches.pulses()
        return [*found, *(f"{w.path}: {w.trouble or 'not listed yet'}" for w in watches if w.trouble or not w.listed)]

    def stand(self) -> Stand:
        """For the page of metrics."""
        return Stand(
            dispatch=self.dispatch,
            pulses=() if self.watches is None else self.watches.pulses(),
            lease_held=self.lease is None or self.lease.held,
        )


def address(text: str) -> tuple[str, int]:
    """Host and port of ``0.0.0.0:8080``, ``[::]:8080`` or ``:8080`` (every address); raises :class:`ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not an address to listen on; write it like 0.0.0.0:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


@contextlib.asynccontextmanager
async def serving(health: Health, listen: str) -> AsyncIterator[None]:
    """Answer while the context is open; with an empty `listen` nothing is served. Raises :class:`KubeError`."""
    if not listen:
        yield
        return
    host, port = address(listen)
    shown = registry(Page(health.stand))

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(shown), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_request: web.Request) -> web.Response:
        return _verdict(health.ills())

    async def readyz(_request: web.Request) -> web.Response:
        return _verdict(health.lacks())

    app = web.Application(client_max_size=1 << 10)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING_S, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            raise KubeError(f"can't listen on {listen}: {error.strerror}; name another with --listen") from None
        yield
    finally:
        await runner.cleanup()


def _verdict(wrong: list[str]) -> web.Response:
    return web.Response(text="\n".join(wrong or ["ok"]) + "\n", status=503 if wrong else 200)
