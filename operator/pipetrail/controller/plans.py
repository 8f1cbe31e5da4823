"""The ConfigMap that says how the namespaces are cut into shards: read by all of them, written by shard 0."""

from collections import Counter
from collections.abc import Mapping

import msgspec

from pipetrail import observe
from pipetrail.kube import ARGO, ApiError, Kube, KubeError, collections
from pipetrail.record import Frozen
from pipetrail.settings import Settings
from pipetrail.shards import Cut, kept


class Plan(Frozen, frozen=True):
    """What the ConfigMap holds: the cut's edges in hexadecimal, for JSON's readers know no whole numbers of 64 bits.

    Before this epoch there were `before` shards, and never more than `span`.
    """

    epoch: int
    edges: tuple[str, ...] = ()
    before: int = 1
    span: int = 1

    @property
    def cut(self) -> Cut:
        """Where the stretches meet; unsound if someone wrote what is no number."""
        try:
            return Cut(edges=tuple(int(edge, 16) for edge in self.edges))
        except ValueError:
            return Cut(edges=(-1,))


class Plans:
    """Reads and writes it, for `settings.shards` of them. A write is by the version that was read last."""

    def __init__(self, kube: Kube, settings: Settings) -> None:
        self._kube = kube
        self._shards = settings.shards
        self._namespaces = settings.watch_namespaces
        self._configmaps = f"/api/v1/namespaces/{settings.namespace}/configmaps"
        self._name = f"{settings.lease}-shards"
        self._version = ""

    async def write(self, before_it: Plan, runs: Mapping[str, int], *, before: int) -> Plan:
        """The next epoch. Raises :class:`KubeError` if someone else wrote meanwhile."""
        made = kept(before_it.cut, runs, self._shards)
        plan = Plan(
            epoch=before_it.epoch + 1, edges=tuple(f"{edge:#018x}" for edge in made.edges), before=before,
            span=max(before_it.span, self._shards),
        )  # fmt: skip
        body = {
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": self._name, **({"resourceVersion": self._version} if self._version else {})},
            "data": {"plan": msgspec.json.encode(plan).decode(), "shards": str(self._shards)},
        }  # fmt: skip
        path = f"{self._configmaps}/{self._name}"
        await (self._kube.put(path, body) if self._version else self._kube.post(self._configmaps, body))
        observe.log().info("namespaces cut", epoch=plan.epoch, shards=self._shards, runs=made.loads(runs))
        return plan

    async def read(self, least: int) -> Plan | None:
        """The plan as it stands; null if there is none, or its epoch is below `least`: it was set back then."""
        try:
            body = await self._kube.get(f"{self._configmaps}/{self._name}")
        except ApiError as error:
            if error.status != 404:
                raise
            self._version = ""
            return None
        self._version = str(body["metadata"]["resourceVersion"])
        try:
            plan = msgspec.json.decode(str((body.get("data") or {}).get("plan")), type=Plan)
        except msgspec.DecodeError as error:
            raise KubeError(f"ConfigMap {self._name}: {error}; delete it and restart all shards") from None
        return plan if plan.cut.sound and plan.epoch >= least else None

    async def runs(self) -> dict[str, int]:
        """How many runs each namespace has, from metadata alone."""
        found: Counter[str] = Counter()
        try:
            for path in collections(ARGO, "workflows", self._namespaces):
                async for page in self._kube.pages(path, metadata_only=True):
                    found.update(str(item["metadata"].get("namespace") or "") for item in page.get("items", ()))
        except ApiError as error:
            if error.status != 404:
                raise
        return dict(found)
