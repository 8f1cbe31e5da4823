"""References: the Secrets and ConfigMaps that a target names, read when they are needed and never kept."""

import base64
import binascii

from pipetrail.api import ConfigMapKeyRef, SecretKeyRef
from pipetrail.kube import ApiError, Kube


class RefError(Exception):
    """A reference of the target leads nowhere: `reason` as the condition ResolvedRefs says it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def resolved(kube: Kube, namespace: str, ref: SecretKeyRef | ConfigMapKeyRef) -> str:
    """The text behind a reference in `namespace`. Raises :class:`RefError`; KubeError if that can't be told now."""
    kind, plural = ("Secret", "secrets") if isinstance(ref, SecretKeyRef) else ("ConfigMap", "configmaps")
    where = f"{kind} {ref.name} in namespace {namespace}"
    try:
        body = await kube.get(f"/api/v1/namespaces/{namespace}/{plural}/{ref.name}")
    except ApiError as error:
        if error.status == 404:
            raise RefError(f"{kind}NotFound", f"there is no {where}: create it, or mend the reference") from None
        if error.status != 403:
            raise
        raise RefError(
            "RefForbidden", f"the operator may not read {where}: bind ClusterRole pipetrail-references there"
        ) from None
    value = (body.get("data") or {}).get(ref.key)
    if value is None:
        there = ", ".join(sorted(body.get("data") or {})) or "none"
        raise RefError(f"{kind}KeyNotFound", f"{where} has no key {ref.key!r} (it has: {there})")
    if kind == "ConfigMap":
        return str(value)
    try:
        return base64.b64decode(value).decode().strip()
    except (binascii.Error, UnicodeDecodeError):
        raise RefError("SecretKeyNotFound", f"{where}: key {ref.key!r} is not text") from None
