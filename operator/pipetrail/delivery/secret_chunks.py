"""Copies of the outbox as Secrets of the operator's namespace, one for each chunk. It knows what lies there, no more.

A Secret's name is made of its content, and none is ever changed: a write that is repeated writes the same again. The
first chunk is removed first, so that what was being removed is told from what was being written.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from pipetrail.api import GROUP
from pipetrail.delivery import outbox
from pipetrail.delivery.outbox import Cover
from pipetrail.kube import ApiError, Kube
from pipetrail.record import Frozen

LABEL: Final = f"{GROUP}/outbox"
TARGET: Final = f"{GROUP}/target"
TARGET_NAMESPACE: Final = f"{GROUP}/target-namespace"
COVER: Final = f"{GROUP}/copy"
CHUNK: Final = f"{GROUP}/chunk"
TYPE: Final = f"{GROUP}/outbox"
DATA: Final = "chunk"
MAX_LABEL: Final = 63


class NotKept(Exception):
    """A copy can't be kept: `reason` in CamelCase, the text says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Lying(Frozen, frozen=True):
    """What there is: covers with the numbers of the chunks that stand, and by the id on its label what is none."""

    copies: tuple[tuple[Cover, frozenset[int]], ...] = ()
    garbage: Mapping[str, list[str]] = {}


class SecretChunks:
    """The Secrets of one namespace that are chunks. All methods raise :class:`KubeError`."""

    def __init__(self, kube: Kube, namespace: str, chunk_bytes: int) -> None:
        self._kube = kube
        self._namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._chunk_bytes = chunk_bytes

    async def lying(self) -> Lying:
        """All of them, from metadata alone."""
        covers: dict[str, Cover] = {}
        found: dict[str, set[int]] = {}
        garbage: dict[str, list[str]] = {}
        async for page in self._kube.pages(self._path, metadata_only=True, labelSelector=LABEL):
            for item in page.get("items", ()):
                meta = item.get("metadata") or {}
                labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
                cover, number = outbox.from_text(notes.get(COVER)), str(notes.get(CHUNK))[:6]
                if cover is None or not number.isdecimal() or labels.get(LABEL) != cover.id:
                    garbage.setdefault(str(labels.get(LABEL)), []).append(str(meta.get("name")))
                    continue
                covers[cover.stem] = cover
                found.setdefault(cover.stem, set()).add(int(number))
        return Lying(copies=tuple((c, frozenset(found[stem])) for stem, c in covers.items()), garbage=garbage)

    def chunks(self, data: bytes) -> int:
        """In how many chunks it is written."""
        return max(1, -(-len(data) // self._chunk_bytes))

    async def write(self, cover: Cover, data: bytes) -> None:
        """Write all chunks; raises :class:`NotKept` for what no second try will mend."""
        labels = {LABEL: cover.id, TARGET: cover.target.name, TARGET_NAMESPACE: cover.target.namespace}
        for number, chunk in enumerate(outbox.cut(data, self._chunk_bytes)):
            body = {
                "apiVersion": "v1", "kind": "Secret", "type": TYPE, "immutable": True,
                "metadata": {
                    "name": _name(cover, number), "labels": {k: v for k, v in labels.items() if len(v) <= MAX_LABEL},
                    "annotations": {COVER: outbox.to_text(cover), CHUNK: str(number)},
                },
                "data": {DATA: base64.b64encode(chunk).decode()},
            }  # fmt: skip
            try:
                await self._kube.post(self._path, body)
            except ApiError as error:
                if error.status == 409 and error.reason == "AlreadyExists":
                    continue  # named by its content: our own, and only the answer was lost
                raise self._refusal(error) or error from None

    async def read(self, cover: Cover) -> bytes:
        """The packed copy; raises :class:`Torn` if it is not what was written."""
        chunks: dict[int, bytes] = {}
        for number in range(cover.chunks):
            try:
                chunks[number] = _chunk(await self._kube.get(f"{self._path}/{_name(cover, number)}"))
            except ApiError as error:
                if error.status != 404:
                    raise
                break
        return outbox.joined(cover, chunks)

    async def delete(self, cover: Cover) -> None:
        """Delete all chunks, the first one first."""
        for number in range(cover.chunks):
            await self.delete_name(_name(cover, number))

    async def delete_name(self, name: str) -> None:
        """Delete one Secret; gone already is fine."""
        try:
            await self._kube.delete(f"{self._path}/{name}")
        except ApiError as error:
            if error.status != 404:
                raise

    def _refusal(self, error: ApiError) -> NotKept | None:
        where = f"namespace {self._namespace}"
        match error.status:
            case 403 if "exceeded quota" in error.message:
                return NotKept("OutboxQuota", f"the quota for Secrets of {where} is used: raise it")
            case 403:
                return NotKept(
                    "OutboxForbidden", f"the operator may not create Secrets in {where}: apply deploy/kustomize again"
                )
            case 404:
                return NotKept("OutboxMissing", f"there is no {where}: name the operator's own with --namespace")
            case 413 | 422:
                return NotKept("OutboxForbidden", f"the API server takes no such Secret in {where} ({error.status})")
            case _:
                return None


def _chunk(body: Any) -> bytes:
    """A Secret's chunk; empty, which no digest fits, if there is none to read."""
    try:
        return base64.b64decode(body["data"][DATA], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return b""


def _name(cover: Cover, number: int) -> str:
    return f"outbox-{cover.id}-{cover.digest[:12]}-{number}"
