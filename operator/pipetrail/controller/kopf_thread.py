"""kopf, for what is ours and for namespaces: in a thread and an event loop of its own, so that it can die alone.

kopf ends as a whole on a 403, on an in-stream error and when a list's continue token expires, and when it stops it
cancels every task of its loop (kubernetes.md §1). Here that costs a restart of this thread and nothing else: handlers
only say to the delivery's loop what they saw.

``on.event`` stores nothing: no finalizer, no annotation, no patch.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import kopf

from pipetrail import api, observe
from pipetrail.controller.streams import Kinds
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.kube import Kube

RESTART_FIRST_S: Final = 1.0
RESTART_MOST_S: Final = 30.0
ENDING_S: Final = 5.0
BEAT_S: Final = 1.0
WATCHER: Final = "watcher for "  # how kopf calls the task of a watch
OURS: Final = frozenset({(api.GROUP, "trackingtargets"), (api.GROUP, "clustertrackingtargets"), ("", "namespaces")})
"""What kopf watches, where the API server has it."""


class NothingStored(kopf.DiffBaseStorage):
    """kopf's memory of an object's last state: none (and so no deep copies of each body)."""

    def build(self, **_: Any) -> Any:
        """No essence."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was ever stored."""
        return {}

    def store(self, **_: Any) -> None:
        """Store nothing."""


class NoProgress(kopf.ProgressStorage):
    """kopf's memory of handlers' progress: none."""

    def fetch(self, **_: Any) -> Any:
        """Nothing was ever stored."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing."""

    def purge(self, **_: Any) -> None:
        """Nothing to purge."""

    def touch(self, **_: Any) -> None:
        """Nothing to touch."""

    def clear(self, *, essence: Any) -> Any:
        """The essence as it is."""
        return essence


def tuned() -> kopf.OperatorSettings:
    """kopf as measured: small pages, short-lived workers."""
    tuning = kopf.OperatorSettings()
    tuning.scanning.disabled = True
    tuning.peering.standalone = True
    tuning.posting.enabled = False
    tuning.watching.chunk_size = 250
    tuning.watching.server_timeout, tuning.watching.client_timeout = 300, 330
    tuning.watching.connect_timeout = 10
    tuning.queueing.idle_timeout = 0.1
    tuning.networking.request_timeout = 60
    tuning.networking.error_backoffs = (1, 1, 2, 3, 5, 8, 13, 21, 30)
    tuning.persistence.diffbase_storage, tuning.persistence.progress_storage = NothingStored(), NoProgress()
    tuning.persistence.finalizer = f"{api.GROUP}/never-used"
    return tuning


class Declared:
    """What people declare, as news for the delivery. Called in kopf's thread; Dispatch is called in its own loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatch: Dispatch) -> None:
        self._loop = loop
        self._dispatch = dispatch

    def target(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """A TrackingTarget or ClusterTrackingTarget."""
        self._call(self._dispatch.saw_target, api.decode_target(body), deleted=kind == "DELETED")

    def namespace(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """A Namespace."""
        meta = {k: body["metadata"].get(k) for k in ("name", "labels", "annotations", "uid")}
        self._call(self._dispatch.saw_namespace, {"metadata": meta}, deleted=kind == "DELETED")

    def _call(self, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        self._loop.call_soon_threadsafe(lambda: method(*args, **kwargs))


def registry(declared: Declared, kinds: Kinds, kube: Kube) -> kopf.OperatorRegistry:
    """Handlers of a few lines for each kind of :data:`OURS` that the API server has."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        credentials = await kube.login.credentials()
        return kopf.ConnectionInfo(**credentials)

    def serve(group: str, plural: str, version: str, receive: Callable[[str | None, Mapping[str, Any]], None]) -> None:
        if (group, plural) not in kinds:
            return

        async def seen(event: Any, **_: Any) -> None:
            receive(event["type"], event["object"])

        kopf.on.event(f"{group}/{version}" if group else version, plural, id=f"seen-{plural}", registry=handlers)(seen)

    serve(api.GROUP, "trackingtargets", api.VERSION, declared.target)
    serve(api.GROUP, "clustertrackingtargets", api.VERSION, declared.target)
    serve("", "namespaces", "v1", declared.namespace)
    return handlers


class KopfThread:
    """Runs kopf until told to stop; starts it again when it ends, and with other kinds when those change."""

    def __init__(self, context: str | None, namespaces: Sequence[str], dispatch: Dispatch, kinds: Kinds) -> None:
        self._context = context
        self._namespaces = namespaces
        self._dispatch = dispatch
        self._stop = threading.Event()
        self._kinds = kinds & OURS
        self.restarts = 0
        self.watching = False
        """True while kopf's watches are there."""
        self._beat_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long ago kopf's loop last turned, or kopf ended and was started again."""
        return time.monotonic() - self._beat_at

    async def run(self) -> None:
        """Watch until cancelled. Ends of kopf are logged, counted and survived."""
        loop = asyncio.get_running_loop()
        pause_s = RESTART_FIRST_S
        while True:
            began = loop.time()
            error = await self._once(loop, self._kinds)
            self._beat_at = time.monotonic()
            self.restarts += 1
            observe.count("watch_restarts")
            observe.log().warning("kopf ended", cause=error or "stopped", again_in_s=pause_s)
            pause_s = RESTART_FIRST_S if loop.time() - began > 60 else min(pause_s * 2, RESTART_MOST_S)
            await asyncio.sleep(pause_s)

    async def _once(self, loop: asyncio.AbstractEventLoop, kinds: Kinds) -> str:
        done: asyncio.Future[str] = loop.create_future()
        stop = threading.Event()

        def finish(text: str) -> None:
            if not done.done():
                done.set_result(text)

        def work() -> None:
            text = ""
            # Not asyncio.run: it waits for every task and thread of the loop, and some of kopf's never end.
            inner = asyncio.new_event_loop()
            try:
                inner.run_until_complete(self._operate(loop, kinds, stop))
            except BaseException as error:  # noqa: BLE001  whatever ends kopf ends only this thread, and is said
                text = f"{type(error).__name__}: {error}"[:300]
            finally:
                inner.set_exception_handler(lambda *_: None)
                inner.close()
            loop.call_soon_threadsafe(finish, text)

        threading.Thread(target=work, name="kopf", daemon=True).start()
        self._stop = stop
        try:
            return await done
        finally:
            stop.set()

    async def _operate(self, loop: asyncio.AbstractEventLoop, kinds: Kinds, stop: threading.Event) -> None:
        """Run kopf until one of its root tasks ends; raises what ended it.

        kopf's own `operator()` then waits for all of its tasks without limit: a watcher that reconnects at that moment
        waits for a login that nobody will make any more, and we would be deaf from then on.
        """
        kube = await Kube.connect(self._context)
        mine = asyncio.all_tasks()
        try:
            roots = await kopf.spawn_tasks(
                registry=registry(Declared(loop, self._dispatch), kinds, kube),
                settings=tuned(),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=stop,
                # Else it asks for the name of its user, and in a pod a uid may have none.
                identity="pipetrail",  # type: ignore[arg-type]  # a NewType of str that kopf does not export
            )
            beat = asyncio.create_task(self._beat(), name="beat")
            ended, _ = await asyncio.wait([*roots, beat], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.watching = False
            stop.set()
            left = asyncio.all_tasks() - mine
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=ENDING_S)
            await kube.close()
        for task in ended:
            if not task.cancelled():
                task.result()

    async def _beat(self) -> None:
        """Say that kopf's loop turns. kopf goes on without a watch that ended (its issue 1276): here that ends kopf."""
        there: set[str] = set()
        while True:
            self._beat_at = time.monotonic()
            now = {name for task in asyncio.all_tasks() if (name := task.get_name()).startswith(WATCHER)}
            if there - now:
                raise RuntimeError(f"the {min(there - now)} is there no more")
            there, self.watching = now, bool(now)
            await asyncio.sleep(BEAT_S)

    def watch(self, kinds: Kinds) -> None:
        """Watch other kinds from now on: kopf is started again if they are others of ours."""
        if kinds & OURS != self._kinds:
            self._kinds = kinds & OURS
            self.stop()

    def stop(self) -> None:
        """Ask kopf to end; :meth:`run` starts it again unless it is cancelled."""
        self._stop.set()
