"""The log of a pod's main container, while the pod lives."""

from typing import Final

from pipetrail.kube import ApiError, Kube, KubeError
from pipetrail.readers import Blob, Fetched
from pipetrail.readers.buckets import failure
from pipetrail.readers.stores import cut_note

LIMIT_BYTES: Final = 10 << 20


async def pod_log(
    kube: Kube, namespace: str, pod: str, uid: str, *, container: str = "main", tail_lines: int | None = None,
    limit: int = LIMIT_BYTES,
) -> Fetched:  # fmt: skip
    """The log of the pod that has this `uid`, each line led by its RFC 3339 stamp.

    Pod names come back with other runs: the uid is compared before and after. `present` is false if the pod is gone,
    or another has its name, or no node ever had it (the API server answers an empty log for that one).
    """
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
    tail = {} if tail_lines is None else {"tailLines": tail_lines}
    try:
        if await _uid(kube, path) != uid:
            return Fetched(present=False)
        data = await kube.get_bytes(
            f"{path}/log", most=limit, timeout_s=60.0, container=container, timestamps="true", limitBytes=limit, **tail
        )
        if await _uid(kube, path) != uid:
            return Fetched(present=False)
    except ApiError as error:
        return _refused(error, namespace, pod)
    except (KubeError, TimeoutError):
        return failure("ApiUnreachable", "the API server did not answer for the pod's log", again=True)
    notes = (cut_note(len(data)),) if len(data) >= limit else ()
    return Fetched(blobs=(Blob(path=f"{container}.log", data=data),), notes=notes, size=len(data))


async def _uid(kube: Kube, path: str) -> str | None:
    """The uid of the pod, if it is there and on a node."""
    try:
        body = await kube.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    if not isinstance(body, dict) or not (body.get("spec") or {}).get("nodeName"):
        return None
    uid = body.get("metadata", {}).get("uid")
    return uid if isinstance(uid, str) else None


def _refused(error: ApiError, namespace: str, pod: str) -> Fetched:
    match error.status:
        case 404:
            return Fetched(present=False)
        case 401 | 403:
            message = (
                f"the operator may not read the log of pod {pod!r}: grant get on pods and pods/log in {namespace!r}"
            )
            return failure("LogForbidden", message, again=True)
        case 400:
            # the container never started, or its runtime has already thrown the log away
            return failure("LogUnavailable", f"the node has no log of pod {pod!r}")
        case status:
            message = f"the API server answers {status} for the log of pod {pod!r}"
            return failure("LogUnavailable", message, again=status >= 429)
