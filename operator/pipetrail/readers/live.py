"""The reader of a live cluster: artifacts from the run's own stores, logs from pods, else from Argo's archived copy.

The stores' keys lie in Secrets of the run's namespace. They are got by name, never listed, and kept for a minute.
"""

import base64
import binascii
import re
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from pipetrail import observe
from pipetrail.formats import Note, pages
from pipetrail.formats.metrics import binary, readable
from pipetrail.kube import ApiError, Kube, KubeError
from pipetrail.readers import Fetched
from pipetrail.readers.buckets import Credentials, failure
from pipetrail.readers.logs import pod_log
from pipetrail.readers.stores import Stores
from pipetrail.sources import AzureLocation, FileRef, GcsLocation, Location, LogRef, S3Location, SecretKey
from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata

if TYPE_CHECKING:
    from pipetrail.readers.mlmd import Mlmd

SECRET_TTL_S: Final = 60.0

# Names go into paths, and they come from an artifact repository that a tenant wrote: "../../other/secrets/x" is none.
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_MAX_SECRETS: Final = 1_000


class _NoCredentials(Exception):
    """A Secret that can't be had; its argument is the :class:`Fetched` that says why."""


class LiveReader:
    """Implements :class:`pipetrail.readers.Reader` for one cluster. `close` it.

    `mlmd` is host:port of KFP's metadata store; empty: runs of KFP v2 are told by their Workflows and logs alone.
    """

    def __init__(
        self, kube: Kube, stores: Stores | None = None, *, mlmd: str = "", clock: Callable[[], float] = monotonic
    ) -> None:
        self._kube = kube
        self._mlmd_address = mlmd
        self._mlmd: Mlmd | None = None
        self._stores = stores or Stores()
        self._clock = clock
        self._secrets: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}

    async def close(self) -> None:
        """Close the connections to stores and forget all keys."""
        self._secrets.clear()
        await self._stores.close()
        if self._mlmd is not None:
            await self._mlmd.close()
            self._mlmd = None

    async def artifact(self, namespace: str, ref: FileRef) -> Fetched:
        """The files of an artifact; of a model, a picture and the like only whether it is there and how big."""
        try:
            credentials = await self._credentials(namespace, ref.location)
        except _NoCredentials as failed:
            return cast("Fetched", failed.args[0])
        wanted = readable if ref.figure is None else pages.readable
        return await self._stores.fetch(
            ref.location, credentials, path=ref.path, wanted=wanted, head_only=binary(ref.path or "")
        )

    async def raw(self, namespace: str, location: Location) -> Fetched:
        """What lies at a place, packed as it lies there (for recordings)."""
        try:
            credentials = await self._credentials(namespace, location)
        except _NoCredentials as failed:
            return cast("Fetched", failed.args[0])
        return await self._stores.raw(location, credentials)

    async def log(self, namespace: str, ref: LogRef, *, tail_lines: int | None = None) -> Fetched:
        """The main container's log: the pod's own if the pod with this very uid still stands, else the archived one.

        What the pod could not give is noted only if the archive has nothing either.
        """
        live = Fetched(present=False)
        if ref.pod and ref.pod_uid and _NAME.fullmatch(ref.pod) and _NAME.fullmatch(namespace):
            live = await pod_log(
                self._kube, namespace, ref.pod, ref.pod_uid, container=ref.container, tail_lines=tail_lines
            )
            if live.present:
                return live
        if ref.archived is None:
            if live.present is False:
                message = "the pod is gone and Argo archived no log of it"
                return Fetched(notes=(Note(reason="LogGone", message=message),), present=False)
            return live
        try:
            credentials = await self._credentials(namespace, ref.archived)
        except _NoCredentials as failed:
            archived = cast("Fetched", failed.args[0])
        else:
            archived = await self._stores.log(ref.archived, credentials, tail_lines=tail_lines)
        if archived.present:
            return archived
        return Fetched(notes=live.notes + archived.notes, present=archived.present, again=live.again or archived.again)

    async def metadata(self, namespace: str, run_id: str) -> Metadata:
        """What KFP's metadata store says of a run of `namespace`, over the one connection that all runs share."""
        if not self._mlmd_address:
            message = "the operator was not told where KFP's metadata store is: set mlmd to its host:port"
            return NoMetadata(reason="MlmdNotConfigured", message=message)
        if self._mlmd is None:
            # Imported here: gRPC takes 22 MB, and most clusters have no KFP.
            from pipetrail.readers.mlmd import Mlmd

            self._mlmd = Mlmd(self._mlmd_address, called=lambda method: observe.count(f"mlmd_call {method}"))
        return await self._mlmd.run(namespace, run_id)

    async def _credentials(self, namespace: str, location: Location) -> Credentials:
        async def value(ref: SecretKey | None) -> str | None:
            return None if ref is None else await self._value(namespace, ref)

        match location:
            case S3Location():
                return Credentials(
                    access_key=await value(location.access_key), secret_key=await value(location.secret_key),
                    session_token=await value(location.session_token), ca=await value(location.ca),
                )  # fmt: skip
            case GcsLocation():
                return Credentials(service_account_key=await value(location.service_account_key))
            case AzureLocation():
                return Credentials(account_key=await value(location.account_key))
            case _:
                return Credentials()

    async def _value(self, namespace: str, ref: SecretKey) -> str:
        data = await self._secret(namespace, ref.name)
        if ref.key not in data:
            message = f"the Secret {ref.name!r} in namespace {namespace!r} has no key {ref.key!r} of text"
            raise _NoCredentials(failure("SecretKeyNotFound", message, again=True))
        return data[ref.key]

    async def _secret(self, namespace: str, name: str) -> dict[str, str]:
        if not (_NAME.fullmatch(name) and _NAME.fullmatch(namespace)):
            raise _NoCredentials(failure("SecretNotFound", f"{name[:253]!r} is not the name of a Secret"))
        now = self._clock()
        kept = self._secrets.get((namespace, name))
        if kept is not None and now < kept[0]:
            return kept[1]
        self._secrets.pop((namespace, name), None)
        try:
            body = await self._kube.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except ApiError as error:
            raise _NoCredentials(_refused(error, namespace, name)) from None
        except (KubeError, TimeoutError):
            message = f"the API server did not answer for the Secret {name!r} in namespace {namespace!r}"
            raise _NoCredentials(failure("ApiUnreachable", message, again=True)) from None
        data: dict[str, str] = {}
        found = body.get("data") if isinstance(body, dict) else None
        for key, encoded in found.items() if isinstance(found, dict) else ():
            try:
                data[key] = base64.b64decode(encoded, validate=True).decode().strip()
            except (binascii.Error, ValueError, TypeError):
                continue
        if len(self._secrets) >= _MAX_SECRETS:
            self._secrets.clear()
        self._secrets[namespace, name] = (now + SECRET_TTL_S, data)
        return data


def _refused(error: ApiError, namespace: str, name: str) -> Fetched:
    match error.status:
        case 401 | 403:
            message = (
                f"the operator may not read the Secret {name!r}, which holds the artifact store's keys; "
                f"bind ClusterRole pipetrail-references in namespace {namespace} to the operator's ServiceAccount"
            )
            return failure("StoreForbidden", message, again=True)
        case 404:
            return failure("SecretNotFound", f"there is no Secret {name!r} in namespace {namespace!r}", again=True)
        case status:
            return failure("ApiUnreachable", f"the API server answers {status} for the Secret {name!r}", again=True)
