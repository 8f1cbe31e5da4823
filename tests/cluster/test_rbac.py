"""deploy/rbac.yaml: the operator may do its work, and can't break a pipeline or list a Secret."""

from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.api

MANIFEST = Path(__file__).parents[2] / "deploy" / "rbac.yaml"
WHO = "system:serviceaccount:pipetrail:pipetrail"
ARGO = "argoproj.io"
OURS = "pipetrail.dev"
WRITES = ("create", "update", "patch", "delete", "deletecollection")

MAY = [
    *((verb, ARGO, kind) for verb in ("get", "list", "watch") for kind in ("workflows", "workflowtaskresults")),
    *((verb, "", kind) for verb in ("get", "list", "watch") for kind in ("pods", "namespaces")),
    ("get", "", "pods/log"), ("get", "", "secrets"), ("get", "", "configmaps"), ("create", "", "events"),
    *((verb, OURS, kind) for verb in ("get", "list", "watch")
      for kind in ("trackingtargets", "clustertrackingtargets", "trackedruns")),
    *(("patch", OURS, kind) for kind in
      ("trackingtargets/status", "clustertrackingtargets/status", "trackedruns/status")),
    ("create", OURS, "trackedruns"), ("delete", OURS, "trackedruns"),
]  # fmt: skip
MAY_NOT = [
    *((verb, group, kind) for verb in WRITES for group, kind in (
        (ARGO, "workflows"), (ARGO, "workflows/status"), (ARGO, "workflows/finalizers"), (ARGO, "workflowtaskresults"),
        ("", "pods"), ("", "pods/status"), ("", "namespaces"), ("", "secrets"), ("", "configmaps"),
        (OURS, "trackingtargets"), (OURS, "clustertrackingtargets"),
    )),
    *((verb, "", kind) for verb in ("list", "watch") for kind in ("secrets", "configmaps")),
    ("create", "", "pods/exec"), ("create", "", "serviceaccounts/token"), ("get", "", "nodes"),
    ("patch", OURS, "trackedruns"), ("get", "apiextensions.k8s.io", "customresourcedefinitions"),
]  # fmt: skip


@pytest.fixture(scope="module")
def bound(cluster, kubectl):
    """The manifest, there for the time of these tests unless it is installed already."""
    if not cluster.ours:
        pytest.skip("roles of the whole cluster are not made on a cluster that is not the tests' own")
    there = kubectl("get", "clusterrole", "pipetrail", "-o", "name", check=False).code == 0
    kubectl("create", "namespace", "pipetrail", check=False)
    kubectl("apply", "-f", str(MANIFEST))
    yield
    if not there:
        kubectl("delete", "-f", str(MANIFEST), "--wait=false")


async def allowed(kube, verb, group, kind, namespace="team-a", name=""):
    resource, _, sub = kind.partition("/")
    what = {
        "namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name,
    }  # fmt: skip
    review = {"spec": {"user": WHO, "groups": ["system:serviceaccounts"], "resourceAttributes": what}}
    made = await kube.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", **review},
    )
    return made["status"]["allowed"]


async def test_it_may_do_its_work(kube, bound):
    assert [what for what in MAY if not await allowed(kube, *what)] == []


async def test_it_may_do_nothing_to_what_is_not_ours(kube, bound):
    assert [what for what in MAY_NOT if await allowed(kube, *what)] == []


def test_no_rule_holds_a_wildcard_or_writes_outside_our_group():
    """Also for what a later hand adds: the only writes are events and kinds of ours."""
    found = []
    for role in yaml.safe_load_all(MANIFEST.read_text()):
        for rule in role.get("rules", ()):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if set(rule["verbs"]) & set(WRITES):
                found += [f"{group}/{kind}" for group in rule["apiGroups"] for kind in rule["resources"]]
    outside = sorted({kind for kind in found if not kind.startswith(OURS)})
    assert outside == ["/events"]
