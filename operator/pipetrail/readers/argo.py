"""What the API server holds of one Argo run beside its Workflow: its pods and task results, as facts."""

from typing import Any, Final

from pipetrail.kube import ARGO, ApiError, Kube
from pipetrail.sources import argo

MAX_LABEL: Final = 63


async def workflow(kube: Kube, namespace: str, name: str) -> Any:
    """The body of a Workflow, or an empty one if there is none."""
    try:
        return await kube.get(f"{ARGO}/namespaces/{namespace}/workflows/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        return {}


async def facts(kube: Kube, header: argo.Header, known: argo.RunFacts | None = None) -> argo.RunFacts:
    """`known` with what the watches would have told of a run that is met in a list (two paged lists)."""
    gathered = known or argo.RunFacts()
    if len(header.name) > MAX_LABEL:
        return gathered  # Argo refuses the Workflow, and the API server the question: no label is as long
    selector = f"workflows.argoproj.io/workflow={header.name}"
    async for page in kube.pages(f"/api/v1/namespaces/{header.namespace}/pods", labelSelector=selector):
        for item in page.get("items", ()):
            pod = argo.pod_facts(item)
            if pod is not None and pod.owner_uid == header.uid:
                gathered = gathered.with_pod(pod)
    results = f"{ARGO}/namespaces/{header.namespace}/workflowtaskresults"
    async for page in kube.pages(results, labelSelector=selector):
        for item in page.get("items", ()):
            result = argo.result_facts(item)
            if result is not None and result.owner_uid == header.uid:
                gathered = gathered.with_result(result)
    return gathered
