"""Candidates: which of all runs that have ended a backfill takes, found by a list of them and the ledger."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Set
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from pipetrail import policy
from pipetrail.delivery.book import Book
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.tour import Tour
from pipetrail.kube import ARGO, ApiError, Kube, collections
from pipetrail.readers import argo as objects
from pipetrail.readers.archive import ArgoArchive
from pipetrail.sources import argo
from pipetrail.sources.argo.body import moment

OTHER_TEAMS: Final = "OtherNamespace"


class Decide(Protocol):
    """The decision of one target on one run; `earlier` as :func:`pipetrail.policy.decide` has it."""

    def __call__(self, seat: Seat, header: argo.Header, *, earlier: bool) -> policy.Decision: ...  # noqa: D102


class Chosen(NamedTuple):
    """A run that is to be sent; `archived` if only Argo's archive has it."""

    ended: datetime
    namespace: str
    name: str
    uid: str
    archived: bool = False


class Candidates:
    """Lists and judges runs, of the cluster and of Argo's archive if there is one."""

    def __init__(
        self, kube: Kube, *, book: Book, decide: Decide, learn: Callable[[argo.Header], Awaitable[None]],
        namespaces: Sequence[str] = (), archive: ArgoArchive | None = None,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._book = book
        self._decide = decide
        self._learn = learn
        self._namespaces = namespaces
        self._archive = archive

    def places(self, tour: Tour) -> tuple[str, ...]:
        """Paths of the lists of all runs that may be meant; none if the operator does not watch there."""
        meant = tour.seat.ref.namespace or tour.wish.namespace
        if meant and (not self._namespaces or meant in self._namespaces):
            return collections(ARGO, "workflows", (meant,))
        return () if meant else collections(ARGO, "workflows", self._namespaces)

    async def find(self, tour: Tour, places: Sequence[str]) -> list[Chosen]:
        """All that is to be sent, newest first; the rest is counted in `tour`."""
        standing = set[str]()
        found: list[Chosen] = []
        if "cluster" in tour.wish.sources:
            found += await self._in_cluster(tour, places, standing)
        if "archive" in tour.wish.sources and self._archive is not None:
            found += await self._in_archive(tour, self._archive, standing)
        return sorted(found, reverse=True)

    async def body(self, chosen: Chosen) -> Any:
        """The run as it stands, or as it was archived; empty if it is nowhere any more."""
        if not chosen.archived:
            return await objects.workflow(self._kube, chosen.namespace, chosen.name)
        assert self._archive is not None
        return await self._archive.body(chosen.namespace, chosen.uid) or {}

    async def _in_cluster(self, tour: Tour, places: Sequence[str], standing: set[str]) -> list[Chosen]:
        """Runs whose objects stand; the uids of all that do go into `standing`."""
        wish, found = tour.wish, list[Chosen]()
        selected: dict[str, Any] = {"labelSelector": wish.selector} if wish.selector else {}
        for path in places:
            async for page in self._kube.pages(path, **selected):
                for item in page.get("items", ()):
                    header = argo.header(item)
                    standing.add(header.uid)
                    if policy.wanted(header, wish):
                        found += await self._judge(tour, header)
                await asyncio.sleep(0)  # deliveries have their turns meanwhile
        return found

    async def _in_archive(self, tour: Tour, archive: ArgoArchive, standing: Set[str]) -> list[Chosen]:
        """Runs that only Argo's archive has. Its list says little of them: they are judged when they are read."""
        meant = tour.seat.ref.namespace or tour.wish.namespace
        since, found = tour.wish.since, list[Chosen]()
        for namespace in (meant,) if meant else self._namespaces or ("",):
            async for header in archive.listed(namespace, tour.wish.selector):
                ended = header.finished
                if header.uid in standing or ended is None or (since is not None and ended < since):
                    continue
                entry = self._book.get((header.namespace, header.uid), tour.seat.ref)
                if entry is not None and entry.settled:
                    tour.settled(entry)
                elif await self._made_since(tour, header):
                    found.append(Chosen(ended, header.namespace, header.name, header.uid, archived=True))
                else:
                    tour.leave(OTHER_TEAMS)
        return found

    async def _made_since(self, tour: Tour, header: argo.Header) -> bool:
        """The run is younger than its namespace: one of that name before it may have been another team's."""
        name = header.namespace
        if name not in tour.namespaces:
            try:
                there = await self._kube.get(f"/api/v1/namespaces/{name}")
                tour.namespaces[name] = moment(there["metadata"].get("creationTimestamp"))
            except ApiError as error:
                if error.status != 404:
                    raise
                tour.namespaces[name] = None
        made = tour.namespaces[name]
        return made is not None and header.created is not None and header.created >= made

    async def _judge(self, tour: Tour, header: argo.Header) -> Iterable[Chosen]:
        """The run if something of it is to be sent; else it is counted."""
        entry = self._book.get((header.namespace, header.uid), tour.seat.ref)
        if entry is not None and entry.settled and not entry.reopened(header.generation):
            tour.settled(entry)
            return ()
        if entry is None:
            await self._learn(header)
            match self._decide(tour.seat, header, earlier=True):
                case policy.Left(rule=rule):
                    tour.leave(rule)
                    return ()
        assert header.finished is not None
        return (Chosen(header.finished, header.namespace, header.name, header.uid),)


def in_turns(found: Sequence[Chosen]) -> Iterator[Chosen]:
    """One of each namespace in turn, so that a team with thousands does not keep a team with one waiting."""
    waiting: dict[str, list[Chosen]] = defaultdict(list)
    for chosen in reversed(found):
        waiting[chosen.namespace].append(chosen)
    while waiting:
        for namespace in list(waiting):
            yield waiting[namespace].pop()
            if not waiting[namespace]:
                del waiting[namespace]
