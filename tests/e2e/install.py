"""An installation to test: kustomize's base in a namespace of the test's own, on a cluster that others use too.

What differs from `kubectl apply -k deploy/kustomize/base` stands in the overlay that is written here: names get a
suffix, the operator looks at the test's namespaces alone, and the CRDs stay those that the cluster has. So what an
uninstall does to CRDs is tested on an API server of its own (test_upgrade.py).
"""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.fixtures import Cluster, Kubectl
from tests.e2e.stage import ROOT

KUSTOMIZE = ROOT / "deploy" / "kustomize"
LOCAL = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py")]
NO_CRDS = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: any}
$patch: delete
"""


def image() -> str:
    """The operator's image on the node, built now if what goes in has changed."""
    done = subprocess.run([*LOCAL, "image"], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@dataclass
class Installation:
    """One installation, applied and deleted as a whole."""

    cluster: Cluster
    folder: Path
    watched: tuple[str, ...]
    overlay: str = "base"
    suffix: str = field(default_factory=lambda: f"t{secrets.token_hex(3)}")  # 12e345 is a number to some YAML

    @property
    def namespace(self) -> str:
        return f"pt-op-{self.suffix}"

    @property
    def account(self) -> str:
        return f"system:serviceaccount:{self.namespace}:pipetrail-{self.suffix}"

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.cluster)

    def write(self, image_name: str, **settings: Any) -> Path:
        """The overlay, as an admin would write one."""
        name, _, tag = image_name.rpartition(":")
        self.folder.mkdir(parents=True, exist_ok=True)
        body = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath((KUSTOMIZE / self.overlay).resolve(), self.folder.resolve())],
            "namespace": self.namespace,
            "nameSuffix": f"-{self.suffix}",
            "images": [{"name": "registry.example.com/pipetrail", "newName": name, "newTag": tag}],
            "configMapGenerator": [{"name": "pipetrail-settings", "behavior": "replace", "files": ["settings.yaml"]}],
            "patches": [{"target": {"kind": "CustomResourceDefinition"}, "patch": NO_CRDS}],
        }
        (self.folder / "kustomization.yaml").write_text(yaml.safe_dump(body))
        (self.folder / "settings.yaml").write_text(
            yaml.safe_dump({"watchNamespaces": list(self.watched), "places": {}, **settings})
        )
        return self.folder

    def apply(self) -> None:
        self.kubectl("apply", "-k", str(self.folder))

    def delete(self) -> None:
        self.kubectl("delete", "-k", str(self.folder), "--ignore-not-found", timeout_s=180)

    def ask(self, *words: str, **options: Any) -> Any:
        """kubectl in the operator's namespace, as JSON."""
        return json.loads(self.kubectl(*words, "-n", self.namespace, "-o", "json", **options).out)

    def pods(self) -> list[Any]:
        """The operator's pods that are not going, the oldest first."""
        found = self.ask("get", "pods", "-l", "app.kubernetes.io/name=pipetrail")["items"]
        standing = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(standing, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def pod(self) -> Any:
        """The operator's only pod."""
        (found,) = self.pods()
        return found

    def logs(self, pod: Any) -> str:
        return self.kubectl("logs", pod["metadata"]["name"], "-n", self.namespace).out

    def wait_ready(self, within_s: float = 180) -> None:
        """Until the Deployment is rolled out; says what the pod and its log tell otherwise."""
        name = f"deployment/pipetrail-{self.suffix}"
        done = self.kubectl(
            "rollout", "status", name, "-n", self.namespace, f"--timeout={within_s:.0f}s", check=False,
            timeout_s=within_s + 30,
        )  # fmt: skip
        if done.code:
            told = self.kubectl("describe", "pods", "-n", self.namespace, check=False).out
            said = self.kubectl("logs", name, "-n", self.namespace, "--tail=40", check=False)
            events = self.kubectl("get", "events", "-n", self.namespace, check=False).out
            raise AssertionError(f"{done.err}\n{told[-3000:]}\n{said.out}{said.err}\n{events}")


def ready(pod: Any) -> bool:
    """Its condition Ready."""
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def get(pod: Any, path: str) -> tuple[int, str]:
    """What the operator answers at `path` of its port; 0 if it does not."""
    address = pod["status"].get("podIP")
    try:
        with urllib.request.urlopen(f"http://{address}:8080{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, OSError):
        return 0, ""


def until(what: str, ask: Any, within_s: float = 60) -> Any:
    """Ask until the answer is true, and give it."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.25)
    raise AssertionError(f"not within {within_s:.0f} s: {what}")
