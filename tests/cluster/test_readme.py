"""What the README tells people to apply is taken by a real API server, to the letter."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pipetrail import api

pytestmark = pytest.mark.api

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_smallest_target_of_the_readme_is_taken_as_it_stands(kubectl, namespace):
    (smallest,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    kubectl("apply", "--validate=strict", "-n", namespace, "-f", "-", stdin=smallest)
    made = json.loads(kubectl("get", "tt", "mlflow", "-n", namespace, "-o", "json").out)
    assert made["spec"]["backend"] == yaml.safe_load(smallest)["spec"]["backend"]
    found = api.decode_target(made)
    assert isinstance(found, api.FoundTarget)
    assert found.spec == api.decode_target(yaml.safe_load(smallest) | {"metadata": made["metadata"]}).spec


def test_what_the_readme_installs_is_taken(kubectl, namespace):
    """A dry run, in a namespace that is there: the README's own may not be, and is not this test's to make."""
    dry_run = ("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f")
    assert "kubectl apply -k crds\nkubectl create namespace pipetrail" in README
    kubectl(*dry_run, "-", stdin=kubectl("kustomize", str(ROOT / "crds")).out)
    assert "kubectl apply -k deploy/kustomize/base\n" in README
    base = kubectl("kustomize", str(ROOT / "deploy/kustomize/base")).out
    assert "namespace: pipetrail\n" in base
    kubectl(*dry_run, "-", stdin=base.replace("namespace: pipetrail\n", f"namespace: {namespace}\n"))


def test_kubectl_explains_the_spec_as_the_readme_says(kubectl):
    assert "`kubectl explain tt.spec`" in README
    assert "backend" in kubectl("explain", "tt.spec").out
