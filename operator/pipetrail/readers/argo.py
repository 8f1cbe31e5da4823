"""What the API server holds of one Argo run beside its Workflow: pods and task results, and what it was made from."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pipetrail import observe
from pipetrail.kube import ARGO, ApiError, Kube
from pipetrail.sources import argo

MAX_LABEL: Final = 63

# A name that a user wrote goes into a path: "../../secrets/x" is none.
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


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


async def made_from(kube: Kube, header: argo.Header) -> Mapping[str, Any]:
    """Labels and annotations of the template that a run was made from, and over them those of its CronWorkflow.

    What is not there, or may not be read, says nothing.
    """
    here = f"{ARGO}/namespaces/{header.namespace}"
    places = (
        (f"{ARGO}/clusterworkflowtemplates", header.cluster_workflow_template),
        (f"{here}/workflowtemplates", header.workflow_template),
        (f"{here}/cronworkflows", header.cron),
    )
    said: dict[str, dict[str, str]] = {"labels": {}, "annotations": {}}
    for path, name in places:
        if not _NAME.fullmatch(name):
            continue
        try:
            meta = (await kube.get(f"{path}/{name}")).get("metadata") or {}
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            if error.status == 403:
                observe.log().warning("template not read", template=name, cause=str(error))
            continue
        for part, known in said.items():
            known |= meta.get(part) or {}
    return said
