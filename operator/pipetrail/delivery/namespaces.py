"""Namespaces: their labels and annotations, which decide what cluster targets see and what runs' authors may choose.

Their uids tell one from a later one of the same name, which may be another team's.
"""

from collections.abc import Mapping
from typing import Any


class Namespaces:
    """Labels and annotations of the cluster's namespaces, as far as we have seen them."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, Any]] = {}

    def saw(self, body: Mapping[str, Any], *, deleted: bool) -> str | None:
        """A namespace appeared, changed or went: its name if that is news to us."""
        meta = body.get("metadata") or {}
        name = str(meta.get("name"))
        if deleted:
            return name if self._known.pop(name, None) is not None else None
        now = {
            "labels": meta.get("labels") or {}, "annotations": meta.get("annotations") or {}, "uid": meta.get("uid"),
        }  # fmt: skip
        if self._known.get(name) == now:
            return None
        self._known[name] = now
        return name

    def of(self, name: str) -> Mapping[str, Any]:
        """Metadata of one namespace: its labels, annotations and uid."""
        return self._known.get(name, {})

    def uid(self, name: str) -> str:
        """The uid of a namespace; empty if there is none of that name."""
        return str(self.of(name).get("uid") or "")
