"""Argo Workflows: its CRDs in both tiers, its controller in the node tier, and namespaces made ready for runs."""

import json
import time
from pathlib import Path
from typing import Any

from .api import apply, expect_ok, kubectl
from .control_plane import BUCKET, REGION, Cluster
from .processes import Part
from .progress import Progress
from .recipes import ARGO, digest_of
from .record import Ledger, Record
from .trouble import Trouble

NAMESPACE = "argo"
ACCOUNT = "argo"
EXECUTOR_IMAGE = f"lab.local/argoexec:v{ARGO}"
CONFIGMAP = "workflow-controller-configmap"
CREDENTIALS = "s3-credentials"
STEPS_ROLE = "workflow-steps"
SERVED_WITHIN_S = 300.0  # several clusters may be starting on one machine
# The controller's health port is fixed in its source.
HEALTH_PORT = 6060


def controller_config(cluster: Cluster) -> dict[str, Any]:
    """The controller's ConfigMap: artifacts and archived logs go to the S3 store; images are never pulled."""
    repository = {
        "archiveLogs": True,
        "s3": {
            "endpoint": cluster.s3_endpoint,
            "bucket": BUCKET,
            "region": REGION,
            "insecure": True,
            "accessKeySecret": {"name": CREDENTIALS, "key": "accesskey"},
            "secretKeySecret": {"name": CREDENTIALS, "key": "secretkey"},
        },
    }
    values = {
        "artifactRepository": repository,
        "executor": {"imagePullPolicy": "Never"},
        "mainContainer": {"imagePullPolicy": "Never"},
        # Its port, 9090, is that of many another program, and nobody here reads it.
        "metricsConfig": {"enabled": False},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIGMAP, "namespace": NAMESPACE},
        "data": {key: json.dumps(value) for key, value in values.items()},
    }


def namespace_objects(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """What a namespace needs so that any ServiceAccount in it can run a workflow's steps."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": STEPS_ROLE}
    every_account = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Group",
        "name": f"system:serviceaccounts:{name}",
    }
    may = {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    rbac = "rbac.authorization.k8s.io/v1"
    where = {"namespace": name}
    keys = {"accesskey": cluster.secrets.s3_access_key, "secretkey": cluster.secrets.s3_secret_key}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {"apiVersion": rbac, "kind": "Role", "metadata": {"name": STEPS_ROLE, **where}, "rules": [may]},
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": {"name": STEPS_ROLE, **where},
            "roleRef": role,
            "subjects": [every_account],
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS, **where}, "stringData": keys},
    ]


def prepare_namespace(cluster: Cluster, name: str) -> None:
    """Make a namespace ready for workflows: rights of the steps, and the S3 store's credentials."""
    apply(cluster.kubectl, cluster.layout.kubeconfig(), namespace_objects(cluster, name))


def is_installed(cluster: Cluster, record: Record) -> bool:
    """Whether the cluster's data holds what `install` puts there."""
    return all(record.applied.get(what) == digest for what, digest in _wanted(cluster).items())


def install(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    """Apply Argo's CRDs (the full ones), and in the node tier the controller's rights and configuration."""
    applied = ledger.now().applied
    manifests = cluster.tools["argo-manifests"].path / "manifests"
    for what, digest in _wanted(cluster).items():
        if applied.get(what) == digest:
            continue
        match what:
            case "argo-crds":
                progress.begin(f"applying Argo {ARGO}'s resource definitions", 7)
                _apply_files(cluster, manifests / "base/crds/full")
                _wait_served(cluster)
                prepare_namespace(cluster, NAMESPACE)
            case "argo-controller":
                progress.begin("applying the rights and settings of Argo's controller", 2)
                _apply_files(cluster, manifests / "cluster-install-no-crds/workflow-controller-rbac")
                apply(
                    cluster.kubectl, cluster.layout.kubeconfig(), [*_controller_account(), controller_config(cluster)]
                )
        ledger.mark(what, digest)
        progress.done()


def _controller_account() -> list[dict[str, Any]]:
    """The controller's ServiceAccount and its rights; the bindings in Argo's own files lack the namespace."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}

    def binding(kind: str, role_kind: str, role: str, metadata: dict[str, str]) -> dict[str, Any]:
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role}
        head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata}
        return {**head, "roleRef": reference, "subjects": [subject]}

    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}},
        binding("ClusterRoleBinding", "ClusterRole", "argo-cluster-role", {"name": "argo-binding"}),
        binding("RoleBinding", "Role", "argo-role", {"name": "argo-binding", "namespace": NAMESPACE}),
    ]


def _wanted(cluster: Cluster) -> dict[str, str]:
    manifests = cluster.tools["argo-manifests"].digest
    wanted = {"argo-crds": manifests}
    if cluster.tier == "node":
        wanted["argo-controller"] = digest_of(manifests, json.dumps(controller_config(cluster)))
    return wanted


def _apply_files(cluster: Cluster, folder: Path) -> None:
    files = [path for path in sorted(folder.glob("*.yaml")) if not path.stem.endswith(("kustomization", "binding"))]
    arguments = [word for path in files for word in ("-f", str(path))]
    # The namespace is for the Roles among them, which name none.
    command = ["apply", "--server-side", "--force-conflicts", "--namespace", NAMESPACE, *arguments]
    kubectl(cluster.kubectl, cluster.layout.kubeconfig(), command)


def _wait_served(cluster: Cluster) -> None:
    """Wait until every kind can be listed: for some seconds a new one is "(re)initializing" (429), or not known yet."""
    names = kubectl(cluster.kubectl, cluster.layout.kubeconfig(), ["get", "crd", "-o", "name"]).split()
    kinds = ",".join(name.rpartition("/")[2] for name in names if name.endswith(".argoproj.io"))
    end = time.monotonic() + SERVED_WITHIN_S
    while True:
        try:
            kubectl(cluster.kubectl, cluster.layout.kubeconfig(), ["get", kinds, "--all-namespaces", "-o", "name"])
        except Trouble:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def workflow_controller(cluster: Cluster) -> Part:
    """Argo's controller as a plain process, with the rights of its own ServiceAccount."""
    return Part(
        name="workflow-controller",
        version=cluster.tools["workflow-controller"].version,
        argv=(
            str(cluster.tools["workflow-controller"].path),
            f"--kubeconfig={cluster.layout.pki / 'workflow-controller.kubeconfig'}",
            f"--namespace={NAMESPACE}",
            f"--configmap={CONFIGMAP}",
            f"--executor-image={EXECUTOR_IMAGE}",
            "--executor-image-pull-policy=Never",
        ),
        env={"LEADER_ELECTION_DISABLE": "true", "ARGO_NAMESPACE": NAMESPACE},
        address=f"http://127.0.0.1:{HEALTH_PORT}",
        probe=lambda: expect_ok(f"http://127.0.0.1:{HEALTH_PORT}/healthz"),
    )
