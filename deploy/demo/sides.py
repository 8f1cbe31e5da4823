"""The three sides of the comparison: what the code wrote, what Argo holds, what MLflow's own client reads."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from deploy.demo import rows
from deploy.demo.parts import Cluster, Trouble
from deploy.demo.rows import Held, Place, Values
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from obstore.store import S3Store

from pipetrail.kube import ARGO, Kube

LOOP = "train"


class Run(NamedTuple):
    """One run on the cluster; `recorded` is the name that it has in the recording, empty in real pods."""

    namespace: str
    name: str
    uid: str
    recorded: str = ""


class Tracked(NamedTuple):
    """What MLflow's client read of one pipeline run."""

    held: Mapping[str, Held]
    keys: tuple[str, ...]
    experiment: str
    parent: str
    children: tuple[str, ...]
    note: str


async def connect(cluster: Cluster) -> Kube:
    """The API server, as the kubeconfig that belongs to it says."""
    configuration = k8s.Configuration()
    try:
        await k8s_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=cluster.kubeconfig or None, context=cluster.context, client_configuration=configuration,
            persist_config=False,
        )  # fmt: skip
    except (k8s_config.ConfigException, OSError) as error:
        raise Trouble(f"no cluster to talk to: {error}; set KUBECONFIG or another --context") from None
    return Kube(configuration)


def bucket(cluster: Cluster) -> S3Store:
    """The store that the run's artifacts lie in."""
    s3 = cluster.s3
    return S3Store(
        s3["bucket"], endpoint=s3["endpoint"], region=s3["region"], access_key_id=s3["accessKey"],
        secret_access_key=s3["secretKey"], virtual_hosted_style_request=False,
        client_options={"allow_http": s3["endpoint"].startswith("http://")},
    )  # fmt: skip


async def workflow(kube: Kube, run: Run) -> dict[str, Any]:
    """The Workflow as the API server has it now."""
    body: dict[str, Any] = await kube.get(f"{ARGO}/namespaces/{run.namespace}/workflows/{run.name}")
    return body


def pod_nodes(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The nodes that were pods, in the order in which they began."""
    nodes = (body.get("status") or {}).get("nodes") or {}
    return sorted(
        (n for n in nodes.values() if n.get("type") == "Pod"), key=lambda n: (n["startedAt"], n["displayName"])
    )


def submitted(manifest: Path) -> Values:
    """The parameters and loop items that a person wrote into the workflow's file."""
    spec = yaml.safe_load(manifest.read_text())["spec"]
    found = {Place("", p["name"]): str(p["value"]) for p in spec["arguments"]["parameters"]}
    for template in spec["templates"]:
        for task in (template.get("dag") or {}).get("tasks", ()):
            for item in task.get("withItems", ()):
                found[Place(f"{task['name']} depth={item}", "depth")] = str(item)
    return found


async def wrote(folder: Path, cluster: Cluster, run: Run, body: Mapping[str, Any]) -> Values:
    """What the code wrote: from the recording's files and logs, or in real pods from the bucket and the pods' logs."""
    found: dict[Place, str] = dict(submitted(folder / "workflow.yaml"))
    for node in pod_nodes(body):
        step = rows.label(node["displayName"])
        for artifact in (node.get("outputs") or {}).get("artifacts", ()):
            if artifact["name"] == "metrics":
                key = artifact["s3"]["key"]
                recorded = folder / "store" / key.replace(run.name, run.recorded) if run.recorded else None
                data = recorded.read_bytes() if recorded else await _object(cluster, key)
                found.update(rows.file_values(step, data))
        found.update(rows.log_values(step, await asyncio.to_thread(_log, folder, cluster, run, node)))
    return found


def _log(folder: Path, cluster: Cluster, run: Run, node: Mapping[str, Any]) -> str:
    # Node ids end in the number that their pod's name ends in.
    number = str(node["id"]).rpartition("-")[2]
    if run.recorded:
        return "".join(path.read_text() for path in (folder / "logs").glob(f"*-{number}/main.log"))
    pods = cluster.run(
        "-n", run.namespace, "get", "pods", "-o", "name", "-l", f"workflows.argoproj.io/workflow={run.name}"
    )
    pod = next((p for p in pods.split() if p.endswith(f"-{number}")), None)
    return cluster.run("-n", run.namespace, "logs", pod, "-c", "main") if pod else ""


async def argo(cluster: Cluster, body: Mapping[str, Any]) -> Values:
    """What Argo holds: parameters, outputs in the nodes, files and archived logs under the keys that the nodes name."""
    arguments = ((body["spec"].get("arguments")) or {}).get("parameters", ())
    found = {Place("", p["name"]): str(p["value"]) for p in arguments}
    for node in pod_nodes(body):
        step = rows.label(node["displayName"])
        for parameter in (node.get("inputs") or {}).get("parameters", ()):
            if step.startswith(LOOP) and parameter["name"] == "depth":
                found[Place(step, "depth")] = parameter["value"]
        for artifact in (node.get("outputs") or {}).get("artifacts", ()):
            if artifact["name"] == "metrics":
                found.update(rows.file_values(step, await _object(cluster, artifact["s3"]["key"])))
            elif artifact["name"] == "main-logs":
                text = (await _object(cluster, artifact["s3"]["key"])).decode()
                found.update((place, text) for place, text in rows.log_values(step, text))
        found.update(rows.node_values(node))
    return found


async def _object(cluster: Cluster, key: str) -> bytes:
    return bytes(await (await bucket(cluster).get_async(key)).bytes_async())


def tracked(url: str, uid: str) -> Tracked:
    """Everything MLflow holds of the run, by MLflow's own client: full histories, not the latest values."""
    # Imported here: it takes seconds, which a cluster that starts can use.
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=url)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = list(client.search_runs(experiments, f"tags.`pipetrail.uid` = '{uid}'", max_results=1000))
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    if not parents:
        raise Trouble(f"MLflow has no run of {uid}")
    held = {}
    for run in runs:
        points = {
            key: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        name = "" if run in parents else str(run.info.run_name)
        held[name] = Held(str(run.info.run_name), run.data.params, points)
    parent = parents[0]
    children = sorted((r for r in runs if r not in parents), key=lambda r: str(r.info.run_name))
    return Tracked(
        held, tuple(str(r.data.tags.get("pipetrail.key")) for r in runs), parent.info.experiment_id,
        parent.info.run_id, tuple(r.info.run_id for r in children), parent.data.tags.get("mlflow.note.content", ""),
    )  # fmt: skip
