"""The operator as a process: connect, read the ledger, watch, deliver, and go quietly when asked.

Order at the start: the Lease is ours before the ledger is read, so that what we read is what the operator before us
left (and each other shard, if there are several, has let go of what is ours); targets and namespaces are listed before
the watches begin, so that the first run that an event shows finds its target. What happened while we were away is found
by the first survey.

When several operators share the namespaces otherwise, each ends what it does and begins anew, as if it had been
restarted: one way into work, and one out of it.
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from pipetrail import api, observe
from pipetrail.controller.bookmarks import Bookmarks, leave_early
from pipetrail.controller.health import Health, serving
from pipetrail.controller.lease import Lease
from pipetrail.controller.shares import Shares, shares
from pipetrail.controller.stands import Beginning, name_of
from pipetrail.controller.watches import Kinds, Watches
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger, Lost
from pipetrail.kube import TRACKED_RUNS, ApiError, Kube, KubeError, collections
from pipetrail.readers.archive import ArgoArchive
from pipetrail.readers.live import LiveReader
from pipetrail.readers.stores import Stores
from pipetrail.readers.transport import Transport
from pipetrail.settings import Settings
from pipetrail.targets import addresses

SURVEY_EVERY_S: Final = 600.0
KINDS_EVERY_S: Final = 30.0
STUCK_EVERY_S: Final = 60.0
DRAIN_S: Final = 20.0
ENDING_S: Final = 5.0
T = TypeVar("T")


async def run(settings: Settings, *, context: str | None = None, stop: asyncio.Event | None = None) -> None:
    """Run the operator until SIGTERM, SIGINT or `stop`.

    Raises :class:`KubeError` if there is no cluster to talk to or no right to, and :class:`TakenOver` if another
    operator took the Lease.
    """
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    async with await Kube.connect(
        context, on_write=lambda verb, plural: observe.count(f"api_write {verb} {plural}")
    ) as kube:
        lease = None
        if settings.lease:
            name = name_of(settings.lease, settings.shard)
            lease = Lease(kube, settings.namespace, name, settings.identity or _process())
        share = shares(kube, settings, lease)
        health = Health(lease, share)
        async with serving(health, settings.listen):
            ending = asyncio.create_task(stopping.wait())
            holding: list[asyncio.Task[Any]] = []
            if lease is not None:
                holding.append(asyncio.create_task(lease.hold(), name="lease"))
            try:
                while not await _term(kube, settings, context, lease, share, health, [ending, *holding]):
                    pass
                for task in holding:  # if it ended, that is why we end
                    if task.done():
                        task.result()
            finally:
                left = [ending, *holding]
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=ENDING_S)
                if lease is not None:
                    await lease.release()


async def _term(
    kube: Kube, settings: Settings, context: str | None, lease: Lease | None, share: Shares, health: Health,
    ending: Sequence[asyncio.Task[Any]],
) -> bool:  # fmt: skip
    """Begin, and work until one of `ending` is done: then true. False if the namespaces are shared otherwise now."""
    made = await _unless(ending, _made(kube, settings, share))
    if made is None:
        return True  # asked to go while we waited for the API server, the Lease or other shards
    dispatch, reader, start = made
    left = start.start_at
    moved = asyncio.create_task(share.moved(), name="shares")
    beside: list[asyncio.Task[None]] = [moved]
    try:
        kinds = await _unless([moved, *ending], _patiently_ready(kube, dispatch, settings.watch_namespaces))
        if kinds is not None:
            observe.log().info(
                "started", cluster=dispatch.cluster, api_server=kube.host, kinds=sorted(p for _, p in kinds)
            )  # fmt: skip
            watches = Watches(
                settings, context, dispatch, kinds, start_at=left, known_at=dispatch.ledger_read_at
            )  # fmt: skip
            marks = Bookmarks(left, watches.pulses, dispatch.waiting_since_deleted)
            share.began()
            if lease is not None:
                lease.leave = lambda: share.annotations(marks.annotations())
                beside.append(asyncio.create_task(leave_early(lease, watches.pulses), name="place"))
            dispatch.survey.told = watches.told
            health.dispatch, health.watches = dispatch, watches
            await _operate(kube, settings, dispatch, watches, marks, [ending[0], moved, *ending[1:]])
            left = marks.versions()
    finally:
        health.dispatch = health.watches = None
        for task in beside:
            if not task.done():
                task.cancel()
        await asyncio.wait(beside, timeout=ENDING_S)
        await dispatch.close()
        await reader.close()
    if any(task.done() for task in ending):
        return True
    moved.result()
    share.let_go(left)
    return False


async def _unless(ending: Sequence[asyncio.Task[Any]], work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives; null if one of `ending` is done before."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task, *ending], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=ENDING_S)


async def _operate(
    kube: Kube, settings: Settings, dispatch: Dispatch, watches: Watches, marks: Bookmarks,
    ending: Sequence[asyncio.Task[Any]],
) -> None:  # fmt: skip
    """Watch and deliver until one of `ending` is done (of the first two what is under way may end)."""
    work = [
        asyncio.create_task(watches.run(), name="watches"),
        asyncio.create_task(dispatch.run(), name="dispatch"),
        asyncio.create_task(_look_after(kube, dispatch, watches, settings.watch_namespaces), name="look after"),
    ]
    dispatch.survey.due.set()
    done, _ = await asyncio.wait([*work, *ending], return_when=asyncio.FIRST_COMPLETED)
    if done & set(ending[:2]):
        said = "stopping" if ending[0] in done else "letting go"
        observe.log().info(said, waiting=sum(s.lane.waiting for s in dispatch.roster.seats()))
        watches.stop()
        work[0].cancel()
        await _drain(dispatch)
    for task in work:
        task.cancel()
    await asyncio.wait(work, timeout=ENDING_S)
    marks.freeze()
    await dispatch.close()
    if dispatch.archive is not None:
        await dispatch.archive.close()
    for task in done - set(ending):
        task.result()


def _process() -> str:
    return f"{socket.gethostname()}/{os.getpid()}"


async def _made(kube: Kube, settings: Settings, share: Shares) -> tuple[Dispatch, LiveReader, Beginning]:
    """What stands before all else: the Lease, our share, and who we are."""
    start = await share.begin()
    cluster = settings.cluster or await _cluster_uid(kube)
    judge = await addresses.known(settings.allow_addresses, kube.host)
    reader = LiveReader(kube, Stores(Transport(addresses=judge.of_stores())), mlmd=settings.mlmd)
    archive = None
    if settings.argo_server:
        archive = ArgoArchive(
            settings.argo_server, token_file=settings.argo_server_token_file, ca_file=settings.argo_server_ca
        )
    ledger = Ledger(kube, _process(), settings.watch_namespaces, share=start.share)
    dispatch = Dispatch(
        kube, ledger, reader, settings, cluster, addresses=judge, permit=share.permit, share=start.share,
        archive=archive,
    )  # fmt: skip
    return dispatch, reader, start


async def _patiently_ready(kube: Kube, dispatch: Dispatch, namespaces: Sequence[str]) -> Kinds:
    """The same as :func:`_ready`, again until an API server that is just starting answers all of it."""
    told = False
    while True:
        try:
            return await _ready(kube, dispatch, namespaces)
        except KubeError as error:
            if isinstance(error, ApiError) and error.status in (401, 403):
                raise
            if not told:
                observe.log().warning("waiting for the API server", cause=str(error))
                told = True
            await asyncio.sleep(2)


async def _ready(kube: Kube, dispatch: Dispatch, namespaces: Sequence[str]) -> Kinds:
    """Wait for our CRDs, read the ledger, meet every target and namespace."""
    told = False
    while True:
        kinds = await served(kube)
        if {(api.GROUP, "trackingtargets"), (api.GROUP, "trackedruns")} <= kinds:
            break
        if not told:
            observe.log().warning("no CRDs", cause="apply crds/ first: kubectl apply --server-side -f crds/; waiting")
            told = True
        await asyncio.sleep(5)
    await dispatch.load()
    async for page in kube.pages("/api/v1/namespaces"):
        for item in page.get("items", ()):
            dispatch.saw_namespace(item, deleted=False)
    await dispatch.keeper.resume()
    await _meet_targets(kube, dispatch, namespaces)
    return kinds


async def _meet_targets(kube: Kube, dispatch: Dispatch, namespaces: Sequence[str]) -> None:
    """Every target that stands; one that we know and that does not stand is gone. kopf tells no deletion in a gap."""
    before = dispatch.roster.seats()
    standing = set()
    lists = [
        ("TrackingTarget", path) for path in collections(TRACKED_RUNS, "trackingtargets", namespaces, dispatch.share)
    ]
    for kind, path in (*lists, ("ClusterTrackingTarget", f"{TRACKED_RUNS}/clustertrackingtargets")):
        async for page in kube.pages(path):
            for item in page.get("items", ()):
                found = api.decode_target({"apiVersion": api.API_VERSION, **item, "kind": kind})
                standing.add(found.ref)
                dispatch.saw_target(found, deleted=False)
    for seat in before:
        if seat.ref not in standing:
            dispatch.saw_target(seat.found, deleted=True)


async def served(kube: Kube) -> Kinds:
    """(group, plural) of all that we watch and the API server has."""
    kinds = {("", "namespaces"), ("", "pods")}
    for group, version in ((api.GROUP, api.VERSION), ("argoproj.io", "v1alpha1")):
        try:
            found: Any = await kube.get(f"/apis/{group}/{version}")
        except ApiError as error:
            if error.status != 404:
                raise
            continue
        kinds |= {(group, r["name"]) for r in found.get("resources", ()) if "/" not in r["name"]}
    return frozenset(kinds)


async def _look_after(kube: Kube, dispatch: Dispatch, watches: Watches, namespaces: Sequence[str]) -> None:
    """New kinds, stuck pods, and a survey, of targets too, now and then."""
    loop = asyncio.get_running_loop()
    next_survey, next_stuck = loop.time() + SURVEY_EVERY_S, loop.time() + STUCK_EVERY_S
    while True:
        await asyncio.sleep(KINDS_EVERY_S)
        try:
            kinds = await served(kube)
            if kinds != watches.kinds:
                observe.log().info("kinds changed", kinds=sorted(p for _, p in kinds))
                watches.watch(kinds)
            if loop.time() >= next_survey:
                await _meet_targets(kube, dispatch, namespaces)
            if loop.time() >= next_stuck:
                next_stuck = loop.time() + STUCK_EVERY_S
                await dispatch.survey.stuck()
        except (KubeError, Lost) as error:
            observe.log().warning("api server", cause=str(error))
        if loop.time() >= next_survey:
            next_survey = loop.time() + SURVEY_EVERY_S
            dispatch.survey.due.set()


async def _cluster_uid(kube: Kube) -> str:
    """The name of this cluster in every key: the uid of kube-system. Waits for the API server if need be."""
    told = False
    while True:
        try:
            body = await kube.get("/api/v1/namespaces/kube-system")
            return str(body["metadata"]["uid"])
        except KubeError as error:
            if isinstance(error, ApiError) and error.status in (401, 403):
                raise
            if not told:
                observe.log().warning("waiting for the API server", cause=str(error))
                told = True
            await asyncio.sleep(2)


async def _drain(dispatch: Dispatch) -> None:
    """What is under way may end, and what only we know may start; nothing depends on it."""
    dispatch.drain()
    end = asyncio.get_running_loop().time() + DRAIN_S
    while asyncio.get_running_loop().time() < end:
        sending = any(seat.ready and not seat.lane.idle for seat in dispatch.roster.seats())
        if not sending and dispatch.keeper.idle:
            return
        await asyncio.sleep(0.1)
