"""The outbox's copies: which there are, where they lie, what they take.

They lie in Secrets of the operator's namespace, or in its own store once its share of etcd is used: that of these
Secrets and of the TrackedRuns together. One list of metadata at the start tells of all of them; a body is read when its
run's turn comes. Nothing is evicted: a copy goes when its run is settled.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from msgspec.structs import replace

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery import outbox
from pipetrail.delivery.book import RunId
from pipetrail.delivery.outbox import Cover, Torn
from pipetrail.delivery.secret_chunks import Lying, NotKept, SecretChunks
from pipetrail.kube import ApiError, Kube, KubeError
from pipetrail.readers.overflow import OverflowFailed, OverflowStore
from pipetrail.record import Frozen
from pipetrail.shards import WHOLE, Share

SECRET_BYTES: Final = 1500
"""What a Secret takes in etcd beside its data: its cover, and what the API server adds (measured: 1 270)."""
_COVER_MOST: Final = 16 << 10
Place = Literal["Secrets", "Store"]
PLACES: Final[tuple[Place, ...]] = ("Secrets", "Store")


class Kept(Frozen, frozen=True):
    """A copy and where it lies. `inherited` is true of one that an earlier process made.

    `whole` is false where chunks are missing. Of these `half_gone` lacks the first, which is removed first: it was
    being removed when we were killed, and not being written.
    """

    cover: Cover
    place: Place
    inherited: bool = False
    whole: bool = True
    half_gone: bool = False

    @property
    def bytes(self) -> int:
        """What it takes where it lies."""
        return self.cover.bytes + (self.cover.chunks * SECRET_BYTES if self.place == "Secrets" else 0)


class Copies:
    """Writes, finds, reads and removes copies. `ledger_bytes` is what the TrackedRuns take of `most_bytes`.

    Of several shards each knows the copies of its own namespaces and has its part of `most_bytes`.
    """

    def __init__(
        self, kube: Kube, namespace: str, *, most_bytes: int, ledger_bytes: Callable[[], int] = lambda: 0,
        store: OverflowStore | None = None, chunk_bytes: int = outbox.CHUNK_BYTES, share: Share = WHOLE,
    ) -> None:  # fmt: skip
        self._secrets = SecretChunks(kube, namespace, chunk_bytes)
        self.most_bytes = most_bytes // share.of
        self.share = share
        self._ledger_bytes = ledger_bytes
        self._store = store
        self.complete = store is None
        """False while something may be kept that we do not know of: the store did not answer."""
        self._kept: dict[str, Kept] = {}
        self._runs: Counter[RunId] = Counter()  # that have whole copies
        self._used_bytes: dict[Place, int] = dict.fromkeys(PLACES, 0)
        self._writing_bytes = 0  # on their way into Secrets
        self._garbage: Mapping[str, list[str]] = {}
        self._busy: Counter[str] = Counter()  # ids that are being written or removed
        self._touched: set[str] = set()  # and those that were since the last look began: of these we know better

    def of(self, run: RunId, ref: TargetRef) -> Kept | None:
        """The copy of one run for one target."""
        return self._kept.get(outbox.copy_id(*run, ref))

    def may_have(self, run: RunId) -> bool:
        """There is a whole copy of a run, for some target; or there may be."""
        return run in self._runs or not self.complete

    def all(self) -> Iterator[Kept]:
        """Every copy; they may change meanwhile."""
        yield from list(self._kept.values())

    def used_bytes(self, place: Place) -> int:
        """What all copies in a place take."""
        return self._used_bytes[place]

    def count(self, place: Place) -> int:
        """How many copies a place holds."""
        return sum(kept.place == place for kept in self._kept.values())

    @property
    def garbage(self) -> Mapping[str, list[str]]:
        """By the id on their label, names of what should be copies and nobody can read."""
        return self._garbage

    # --- what there is ------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Find out what is kept, from metadata alone. What this process is at meanwhile stays as it knows it."""
        self._touched = set(self._busy)
        lying: list[Kept] = []
        found = await self._secrets.lying()
        for cover, numbers in found.copies:
            if not self.share.owns(cover.namespace):
                continue
            whole = all(number in numbers for number in range(cover.chunks))
            lying.append(
                Kept(cover=cover, place="Secrets", inherited=True, whole=whole, half_gone=0 not in numbers)
            )  # fmt: skip
        stored = await self._stored()
        if stored is None:
            lying += [kept for kept in self._kept.values() if kept.place == "Store"]
            self._garbage = found.garbage
        else:
            lying += [
                Kept(cover=cover, place="Store", inherited=True)
                for cover, _ in stored.copies
                if self.share.owns(cover.namespace)
            ]
            self._garbage = {**found.garbage, **stored.garbage}
        self.complete = stored is not None
        spare = self._choose(lying)
        for kept in spare:  # an older one, or one that was being written when we were killed
            if kept.cover.id not in self._touched:
                await self._delete(kept)

    async def _stored(self) -> Lying | None:
        """What lies in the store; null if it does not say."""
        if self._store is None:
            return Lying()
        copies: list[tuple[Cover, frozenset[int]]] = []
        garbage: dict[str, list[str]] = {}
        try:
            async for stem in self._store.names():
                cover = outbox.from_text((await self._store.get(stem, _COVER_MOST)).partition(b"\n")[0].decode("latin"))
                if cover is None or stem != cover.stem:
                    garbage.setdefault(stem.partition(".")[0], []).append(stem)
                else:
                    copies.append((cover, frozenset()))
        except OverflowFailed as error:
            observe.log().warning("outbox not looked at", cause=str(error))
            return None
        return Lying(copies=tuple(copies), garbage=garbage)

    def _choose(self, lying: list[Kept]) -> list[Kept]:
        """Of several copies of one run × target the newest whole one counts; those that don't come back."""
        best: dict[str, Kept] = {}
        spare: list[Kept] = []
        for found in lying:
            id_, mine = found.cover.id, self._kept.get(found.cover.id)
            if id_ in self._touched:
                continue
            ours = mine is not None and not mine.inherited and mine.cover.digest == found.cover.digest
            kept = replace(found, inherited=not ours)
            other = best.setdefault(id_, kept)
            if other is kept:
                continue
            if (other.whole, other.cover.kept_at) < (kept.whole, kept.cover.kept_at):
                best[id_], other = kept, best[id_]
                spare.append(other)
            else:
                spare.append(kept)
        best |= {id_: kept for id_, kept in self._kept.items() if id_ in self._touched}
        self._kept, self._runs = {}, Counter()
        self._used_bytes = dict.fromkeys(PLACES, 0)
        for kept in best.values():
            self._know(kept)
        return spare

    # --- keeping ------------------------------------------------------------------------------------------------

    def chunks(self, data: bytes) -> int:
        """In how many chunks it is written."""
        return self._secrets.chunks(data)

    async def keep(self, cover: Cover, data: bytes) -> bool:
        """Keep `data` under `cover`, in the place of an earlier copy of the same run × target. True if it was written.

        Raises :class:`NotKept`, and :class:`KubeError` for what may go better another time.
        """
        before = self._kept.get(cover.id)
        if before is not None and before.whole and before.cover.digest == cover.digest:
            return False
        kept = self._placed(Kept(cover=cover, place="Secrets"))
        with self._at(cover.id):
            match kept.place:
                case "Secrets":
                    self._writing_bytes += kept.bytes
                    try:
                        await self._secrets.write(cover, data)
                    finally:
                        self._writing_bytes -= kept.bytes
                case "Store":
                    assert self._store is not None
                    try:
                        await self._store.put(cover.stem, outbox.to_text(cover).encode() + b"\n" + data)
                    except OverflowFailed as error:
                        raise NotKept("OutboxStoreFailed", f"{error}: see to the store that --outbox names") from None
            self._know(kept)
            if before is not None and (before.place, before.cover.digest) != (kept.place, cover.digest):
                with contextlib.suppress(KubeError, OverflowFailed):  # the newer one counts; the next look removes it
                    await self._delete(before)
        return True

    def _placed(self, kept: Kept) -> Kept:
        """`kept` where there is room for it."""
        more = kept.bytes
        used = self._used_bytes["Secrets"] + self._writing_bytes + self._ledger_bytes()
        if used + more <= self.most_bytes:
            return kept
        if self._store is not None:
            return replace(kept, place="Store")
        raise NotKept(
            "OutboxFull",
            f"no copy is kept: {_mib(used)} of {_mib(self.most_bytes)} are used and it takes {_mib(more)}. "
            "Raise --outbox-max or name a store with --outbox; until the tracker has it, deleting the run or "
            "restarting the operator may lose it",
        )

    @contextlib.contextmanager
    def _at(self, id_: str) -> Iterator[None]:
        """While this runs, a look at what lies there does not know better."""
        self._touched.add(id_)
        self._busy[id_] += 1
        try:
            yield
        finally:
            self._busy[id_] -= 1
            self._busy += Counter()  # drops what is at zero

    def _know(self, kept: Kept) -> None:
        self._unknow(kept.cover.id)
        self._kept[kept.cover.id] = kept
        self._used_bytes[kept.place] += kept.bytes
        if kept.whole:
            self._runs[_run(kept)] += 1

    def _unknow(self, id_: str) -> None:
        before = self._kept.pop(id_, None)
        if before is not None:
            self._used_bytes[before.place] -= before.bytes
            self._runs[_run(before)] -= before.whole
            if not self._runs[_run(before)]:
                del self._runs[_run(before)]

    # --- reading and removing -----------------------------------------------------------------------------------

    async def read(self, kept: Kept) -> outbox.Copy:
        """The copy itself. Raises :class:`Torn`, and :class:`KubeError` or :class:`OverflowFailed` for now."""
        cover = kept.cover
        if kept.place == "Secrets":
            return outbox.opened(cover, await self._secrets.read(cover))
        assert self._store is not None
        head, _, data = (await self._store.get(cover.stem)).partition(b"\n")
        if outbox.from_text(head.decode("latin")) != cover:
            raise Torn("its cover was changed")
        return outbox.opened(cover, outbox.joined(replace(cover, chunks=1), {0: data}))

    async def remove(self, kept: Kept) -> None:
        """A copy has done its service. It stays known if that fails, and is removed another time."""
        with self._at(kept.cover.id):
            await self._delete(kept)
            if self._kept.get(kept.cover.id) == kept:
                self._unknow(kept.cover.id)

    async def discard(self, id_: str) -> None:
        """Remove what nobody can read."""
        names = self._garbage.get(id_, [])
        self._garbage = {key: value for key, value in self._garbage.items() if key != id_}
        for name in names:
            if "." not in name:
                await self._secrets.delete_name(name)
            elif self._store is not None:
                await self._store.delete(name)

    async def _delete(self, kept: Kept) -> None:
        if kept.place == "Secrets":
            await self._secrets.delete(kept.cover)
        elif self._store is not None:
            await self._store.delete(kept.cover.stem)


async def look(copies: Copies) -> bool:
    """:meth:`Copies.load`; without the right to, or the namespace for, an outbox the operator works on without one."""
    try:
        await copies.load()
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        copies.complete = True
        observe.log().warning("no outbox", cause=f"{error}; apply deploy/kustomize again, or name --namespace")
        return False
    return True


def _mib(number: int) -> str:
    return f"{number / (1 << 20):.1f} MiB"


def _run(kept: Kept) -> RunId:
    return kept.cover.namespace, kept.cover.uid
