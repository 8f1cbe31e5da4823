"""The manifest of the page that shows event files: a real API server takes it, where nothing unsafe may run."""

from pathlib import Path

import pytest
import yaml
from tests.cluster.fixtures import Kubectl

pytestmark = pytest.mark.api

MANIFEST = Path(__file__).parents[2] / "deploy" / "kustomize" / "tensorboard.yaml"


def test_the_page_keeps_to_the_restricted_pod_security_level(kubectl: Kubectl, namespace: str) -> None:
    kubectl("label", "namespace", namespace, "--overwrite", *(
        f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")
    ))  # fmt: skip
    answer = kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", str(MANIFEST)
    )
    assert answer.err == ""
    pod = next(o for o in yaml.safe_load_all(MANIFEST.read_text()) if o["kind"] == "Deployment")["spec"]["template"]
    made = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "page", "namespace": namespace}, "spec": pod["spec"],
    }  # fmt: skip
    assert "page" in kubectl("apply", "--dry-run=server", "-f", "-", stdin=made).out


def test_the_page_reads_one_teams_folder_and_calls_nobody() -> None:
    objects = {o["kind"]: o for o in yaml.safe_load_all(MANIFEST.read_text())}
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert "--logdir=/logs/team-a" in container["args"]
    assert {m["mountPath"]: m.get("readOnly", False) for m in container["volumeMounts"]} == {
        "/logs": True, "/tmp": False,
    }  # fmt: skip
    assert spec["automountServiceAccountToken"] is False
    assert objects["NetworkPolicy"]["spec"].get("egress") is None
    assert objects["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
