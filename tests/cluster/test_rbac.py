"""deploy/kustomize: the operator may do its work, can't break a pipeline or list a Secret; people may what they should.

The rights are those of the manifests, given to ServiceAccounts of the test's own; the API server is asked about each,
as `kubectl auth can-i` asks it. docs/install.md has the tables that come out.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
import yaml
from tests.cluster.fixtures import ROOT, Cluster, Kubectl, _missing, connect, sweep
from tests.e2e.install import Installation
from tests.e2e.stage import until

from pipetrail.kube import Kube

pytestmark = pytest.mark.api

KUSTOMIZE = ROOT / "deploy" / "kustomize"
RIGHTS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
ARGO, OURS, RBAC = "argoproj.io", "pipetrail.dev", "rbac.authorization.k8s.io"
WAYS = ["base", "overlays/per-tenant", "overlays/sharded"]
READ = "get list watch"
WRITE = "create update patch delete deletecollection"
ANY, BOUND, OWN = "any namespace", "a namespace with the binding", "its own namespace"


class Row(NamedTuple):
    """A line of a table: the answers for all of `verbs` on all of `kinds` (resource.group), which must be the same."""

    verbs: str
    kinds: tuple[str, ...]
    where: str
    answers: tuple[bool, ...]


def rows(*lines: tuple[str, str, str, str]) -> tuple[Row, ...]:
    return tuple(
        Row(verbs, tuple(kinds.split()), where, tuple(answer == "yes" for answer in answers.split()))
        for verbs, kinds, where, answers in lines
    )


OPERATOR = rows(
    (READ, f"workflows.{ARGO} workflowtaskresults.{ARGO}", ANY, "yes yes yes"),
    (WRITE, f"workflows.{ARGO} workflows/status.{ARGO} workflows/finalizers.{ARGO} workflowtaskresults.{ARGO}", ANY,
     "no no no"),
    ("get", f"workflowtemplates.{ARGO} clusterworkflowtemplates.{ARGO} cronworkflows.{ARGO}", ANY, "yes yes yes"),
    (f"list watch {WRITE}", f"workflowtemplates.{ARGO} clusterworkflowtemplates.{ARGO} cronworkflows.{ARGO}", ANY,
     "no no no"),
    (READ, "pods namespaces", ANY, "yes yes yes"),
    ("get", "pods/log", ANY, "yes yes yes"),
    (WRITE, "pods pods/status pods/ephemeralcontainers namespaces", ANY, "no no no"),
    ("create", "pods/exec pods/attach pods/portforward pods/eviction", ANY, "no no no"),
    ("get", "secrets configmaps", ANY, "yes no yes"),
    ("get", "secrets configmaps", BOUND, "yes yes yes"),
    ("get", "secrets configmaps", OWN, "yes yes yes"),
    ("list watch", "secrets configmaps", ANY, "no no no"),
    ("list create delete", "secrets", OWN, "yes yes yes"),
    ("watch update patch deletecollection", "secrets", OWN, "no no no"),
    (WRITE, "secrets configmaps", ANY, "no no no"),
    ("create", "configmaps", OWN, "no no yes"),
    ("list watch update patch delete deletecollection", "configmaps", OWN, "no no no"),
    (READ, f"trackingtargets.{OURS} clustertrackingtargets.{OURS} trackedruns.{OURS}", ANY, "yes yes yes"),
    ("patch", f"trackingtargets/status.{OURS} clustertrackingtargets/status.{OURS} trackedruns/status.{OURS}", ANY,
     "yes yes yes"),
    (WRITE, f"trackingtargets.{OURS} clustertrackingtargets.{OURS}", ANY, "no no no"),
    ("create delete", f"trackedruns.{OURS}", ANY, "yes yes yes"),
    ("update patch deletecollection", f"trackedruns.{OURS}", ANY, "no no no"),
    ("create", "events", ANY, "yes yes yes"),
    ("get list patch delete", "events", ANY, "no no no"),
    ("get create update", "leases.coordination.k8s.io", OWN, "yes yes yes"),
    (f"get {WRITE}", "leases.coordination.k8s.io", ANY, "no no no"),
    ("list watch delete", "leases.coordination.k8s.io", OWN, "no no no"),
    ("create", "serviceaccounts/token", OWN, "no no no"),
    ("impersonate", "users groups serviceaccounts", ANY, "no no no"),
    (f"get {WRITE} bind escalate", f"roles.{RBAC} rolebindings.{RBAC} clusterroles.{RBAC} clusterrolebindings.{RBAC}",
     ANY, "no no no"),
    (f"get {WRITE}", "nodes persistentvolumes customresourcedefinitions.apiextensions.k8s.io deployments.apps", ANY,
     "no no no"),
)  # fmt: skip
"""What the operator may with base, with per-tenant and with sharded."""

PEOPLE = rows(
    (READ, f"trackingtargets.{OURS} trackedruns.{OURS}", ANY, "yes yes yes"),
    ("create update patch delete", f"trackingtargets.{OURS}", ANY, "no yes yes"),
    ("update patch delete", f"trackedruns.{OURS}", ANY, "no yes yes"),
    ("create", f"trackedruns.{OURS}", ANY, "no no no"),
    ("update patch", f"trackingtargets/status.{OURS} trackedruns/status.{OURS}", ANY, "no no no"),
    ("create update patch delete", f"clustertrackingtargets.{OURS}", ANY, "no no no"),
)
"""What someone may in a namespace who has Kubernetes' role view, edit or admin there."""


class Asked(NamedTuple):
    """Whom and where to ask."""

    kube: Kube
    user: str
    places: dict[str, str]

    async def may(self, verb: str, kind: str, where: str, name: str = "") -> bool:
        resource, _, group = kind.partition(".")
        resource, _, sub = resource.partition("/")
        name = name or ("pipetrail" if resource == "leases" else "")
        attributes = {
            "namespace": self.places[where], "verb": verb, "group": group, "resource": resource, "subresource": sub,
            "name": name,
        }  # fmt: skip
        made = await self.kube.post(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            {"spec": {"user": self.user, "groups": ["system:authenticated"], "resourceAttributes": attributes}},
        )
        return bool(made["status"]["allowed"])

    async def answer(self, row: Row) -> bool | None:
        """The answer to all of a row; null if they differ."""
        asked = [self.may(verb, kind, row.where) for verb in row.verbs.split() for kind in row.kinds]
        answers = set(await asyncio.gather(*asked))
        return answers.pop() if len(answers) == 1 else None


def rights(installation: Installation) -> list[Any]:
    """Of what an installation applies, what has to do with rights."""
    shown = installation.kubectl("kustomize", str(installation.folder)).out
    return [body for body in yaml.safe_load_all(shown) if body["kind"] in RIGHTS]


@pytest.fixture(scope="module")
def team(cluster: Cluster, kubectl: Kubectl) -> Iterator[str]:
    """A namespace in which neither operator nor anybody else has been given anything."""
    name = f"pt-team-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    yield name
    sweep(cluster, kubectl, name)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=WAYS)
async def operator(
    request: pytest.FixtureRequest, cluster: Cluster, kubectl: Kubectl, team: str, tmp_path_factory: Any
) -> AsyncIterator[tuple[str, Asked]]:
    """The rights of one way to install, given for the time of these tests."""
    if not cluster.ours:
        pytest.skip("roles of the whole cluster are not made on a cluster that is not the tests' own")
    installation = Installation(cluster, tmp_path_factory.mktemp("rights") / "overlay", (), request.param)
    installation.write("lab.local/pipetrail:none")
    made = {"apiVersion": "v1", "kind": "List", "items": rights(installation)}
    bound = f"{team}-bound-{installation.suffix}"
    kubectl("apply", "-f", "-", stdin=made)
    kubectl("create", "namespace", bound)
    (binding,) = yaml.safe_load_all((KUSTOMIZE / "overlays/per-tenant/tenant/binding.yaml").read_text())
    binding["roleRef"]["name"] += f"-{installation.suffix}"
    binding["subjects"][0] |= {"name": f"pipetrail-{installation.suffix}", "namespace": installation.namespace}
    kubectl("apply", "-n", bound, "-f", "-", stdin=binding)
    try:
        async with await connect(cluster) as kube:
            places = {ANY: team, BOUND: bound, OWN: installation.namespace}
            yield request.param, Asked(kube, installation.account, places)
    finally:
        made["items"] = [item for item in made["items"] if item["kind"] != "Namespace"]
        kubectl("delete", "-f", "-", "--ignore-not-found", stdin=made)
        for name in (installation.namespace, bound):
            sweep(cluster, kubectl, name)


def table(head: Sequence[str], wanted: Sequence[Row]) -> str:
    """As docs/install.md has it."""
    lines = [["verbs", "on", "in", *head], ["---"] * (3 + len(head))]
    for row in wanted:
        kinds = " ".join(f"`{kind}`" for kind in row.kinds)
        lines.append([row.verbs.replace(" ", ", "), kinds, row.where, *("yes" if a else "no" for a in row.answers)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_operator_may_do_its_work_and_nothing_to_what_is_not_ours(operator: tuple[str, Asked]) -> None:
    overlay, asked = operator
    column = WAYS.index(overlay)
    answers = [await asked.answer(row) for row in OPERATOR]
    for row, answer in zip(OPERATOR, answers, strict=True):
        said = {True: "yes", False: "no", None: "it depends"}[answer]
        print(f"{overlay:20} {said:4} {row.verbs:42} {' '.join(row.kinds)} in {row.where}")
    wrong = [row for row, answer in zip(OPERATOR, answers, strict=True) if answer is not row.answers[column]]
    assert wrong == []


@pytest.mark.asyncio(loop_scope="module")
async def test_shards_may_write_their_leases_and_one_configmap_and_nobody_else_may(operator: tuple[str, Asked]) -> None:
    overlay, asked = operator
    theirs = [("leases.coordination.k8s.io", f"pipetrail-{n}") for n in (1, 7)] + [("configmaps", "pipetrail-shards")]
    others = [("leases.coordination.k8s.io", "pipetrail-8"), ("configmaps", "pipetrail-settings")]
    wanted = {(verb, *what): overlay == "overlays/sharded" for verb in ("get", "update") for what in theirs}
    wanted |= {("update", *what): False for what in others}
    wanted["get", "configmaps", "pipetrail-shards"] = True  # as any ConfigMap of its own namespace
    assert {key: await asked.may(key[0], key[1], OWN, key[2]) for key in wanted} == wanted


def test_a_shard_is_the_same_operator_as_without_shards(kubectl: Kubectl) -> None:
    def workload(way: str, kind: str) -> Any:
        shown = yaml.safe_load_all(kubectl("kustomize", str(KUSTOMIZE / way)).out)
        (found,) = [body for body in shown if body["kind"] == kind]
        return found

    alone, shard = workload("base", "Deployment"), workload("overlays/sharded", "StatefulSet")
    args = shard["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[-2:] == [f"--shards={shard['spec']['replicas']}", "--shard=auto"]
    del args[-2:]
    assert shard["spec"]["template"] == alone["spec"]["template"]
    assert shard["spec"]["podManagementPolicy"] == "Parallel"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.node  # Kubernetes' own controller adds the roles together
async def test_people_may_what_their_role_says(cluster: Cluster, kubectl: Kubectl, team: str, tmp_path: Path) -> None:
    if cluster.env.get("tier") != "node":
        _missing("no controllers, which add roles to view, edit and admin")
    installation = Installation(cluster, tmp_path / "overlay", ())
    installation.write("lab.local/pipetrail:none")
    made = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [r for r in rights(installation) if r["kind"] == "ClusterRole"],
    }
    kubectl("apply", "-f", "-", stdin=made)
    try:
        for role in ("view", "edit", "admin"):
            kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user=pt-{role}", "-n", team)
        async with await connect(cluster) as kube:
            asked = [Asked(kube, f"pt-{role}", {ANY: team}) for role in ("view", "edit", "admin")]
            await until("the roles are added", lambda: asked[2].may("delete", f"trackingtargets.{OURS}", ANY))
            for row in PEOPLE:
                answers = tuple([await one.answer(row) for one in asked])
                print(f"view, edit, admin: {answers} {row.verbs} {' '.join(row.kinds)}")
                assert answers == row.answers, row
    finally:
        kubectl("delete", "-f", "-", stdin=made)


def test_the_install_guide_has_these_tables() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    assert table(("base", "per-tenant", "sharded"), OPERATOR) in page
    assert table(("view", "edit", "admin"), PEOPLE) in page


@pytest.mark.parametrize("overlay", [*WAYS, "overlays/per-tenant/tenant"])
def test_no_rule_holds_a_wildcard_or_writes_outside_our_group(overlay: str, kubectl: Kubectl) -> None:
    """Also for what a later hand adds: the only writes are events, the Lease, the outbox and kinds of ours."""
    found, roles = [], []
    for body in yaml.safe_load_all(kubectl("kustomize", str(KUSTOMIZE / overlay)).out):
        for rule in body.get("rules", ()):
            assert "*" not in json.dumps(rule)
            if set(rule["verbs"]) & set(WRITE.split()):
                found += [f"{group}/{kind}" for group in rule["apiGroups"] for kind in rule["resources"]]
                if {"secrets", "configmaps"} & set(rule["resources"]):
                    roles.append((body["kind"], body["metadata"]["name"]))
    outside = {kind for kind in found if not kind.startswith(OURS)}
    assert outside <= {"/events", "coordination.k8s.io/leases", "/secrets", "/configmaps"}
    assert set(roles) <= {("Role", "pipetrail-outbox"), ("Role", "pipetrail-shards")}  # in its own namespace alone
