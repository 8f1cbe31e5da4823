"""Notices: what people read of us with kubectl, one Event per transition and conditions in Kubernetes' form."""

from typing import Any

from pipetrail import observe
from pipetrail.api import API_VERSION, Condition
from pipetrail.delivery import ledger as ledgers
from pipetrail.kube import Kube, KubeError


async def post_event(
    kube: Kube, namespace: str, involved: dict[str, Any], kind: str, reason: str, message: str
) -> None:
    """One core/v1 Event; that it can't be posted is a log line, never a failure."""
    now = ledgers.now()
    body = {
        "metadata": {"generateName": f"{involved['name'][:50].rstrip('-.')}.", "namespace": namespace},
        "involvedObject": involved, "type": kind, "reason": reason, "message": message[:1000],
        "source": {"component": "pipetrail"}, "reportingComponent": "pipetrail.dev/operator",
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    }  # fmt: skip
    try:
        await kube.post(f"/api/v1/namespaces/{namespace}/events", body)
    except KubeError as error:
        observe.log().warning("event not posted", object=involved["name"], cause=str(error))


async def of_run(kube: Kube, entry: ledgers.Entry, kind: str, reason: str, message: str) -> None:
    """An Event on a TrackedRun; none where there is no such object."""
    if entry.version == ledgers.UNKEPT:
        return
    involved = {
        "apiVersion": API_VERSION, "kind": "TrackedRun", "name": entry.name, "namespace": entry.namespace,
        "uid": entry.uid,
    }  # fmt: skip
    await post_event(kube, entry.namespace, involved, kind, reason, message)


def condition(
    kind: Any, status: Any, reason: str, message: str, generation: int, before: Condition | None
) -> Condition:
    """A condition; the time of its last transition stays while its status does."""
    same = before is not None and before.status == status
    since = before.last_transition_time if before is not None and same else ledgers.now()
    return Condition(
        type=kind, status=status, reason=reason, message=message[:1000], observed_generation=generation,
        last_transition_time=since,
    )  # fmt: skip
