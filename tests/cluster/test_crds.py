"""The CRDs on a real API server: what is taken, what is refused and with which words, what kubectl shows."""

import asyncio
import json

import pytest
from tests.target_cases import ACCEPTED, BEARER, REFUSED, URI, spec

from pipetrail import api
from pipetrail.kube import TRACKED_RUNS, ApiError

pytestmark = pytest.mark.api

SETTLED = "2026-11-24T10:00:00Z"


def target(spec, name="mlflow", kind="TrackingTarget"):
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def tracked_run(name="train-1"):
    intent = api.TrackedRunSpec(
        run=api.RunRef(source="argo", name="train", uid="u-1", key="c-1/u-1", pipeline="train"),
        target=api.TargetRef(kind="TrackingTarget", namespace="team-a", name="mlflow"),
        policy=api.Policy(naming=api.Naming(experiment="churn")),
    )
    meta = {"name": name}
    return {"apiVersion": api.API_VERSION, "kind": "TrackedRun", "metadata": meta, "spec": api.to_json(intent)}


async def tried(kube, body, plural="trackingtargets", namespace="default", **query):
    """Create `body` without keeping it; what the server made of it."""
    within = f"/namespaces/{namespace}" if namespace else ""
    query = {"dryRun": "All", "fieldValidation": "Strict", **query}
    return await kube.post(f"{TRACKED_RUNS}{within}/{plural}", body, **query)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
async def test_a_wrong_target_is_refused_by_field_and_fix(kube, case):
    with pytest.raises(ApiError) as refused:
        await tried(kube, target(case.spec))
    assert refused.value.status in (400, 422)
    assert case.field in refused.value.message
    assert case.fix in refused.value.message


@pytest.mark.parametrize("name", ACCEPTED)
async def test_a_right_target_is_taken(kube, name):
    made = await tried(kube, target(ACCEPTED[name]))
    assert made["spec"]["backend"] == ACCEPTED[name]["backend"]


@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_the_server_made_of_it_is_found_as_it_was_meant(kube, name):
    """Defaults that the server fills in are those that the types have."""
    given = target(ACCEPTED[name])
    given["metadata"]["namespace"] = "default"
    made = await tried(kube, given)
    found, meant = api.decode_target(made), api.decode_target(given)
    assert isinstance(found, api.FoundTarget)
    assert isinstance(meant, api.FoundTarget)
    assert found.spec == meant.spec


async def test_a_cluster_target_takes_a_namespace_selector(kube):
    body = target(spec(namespaceSelector={"matchLabels": {"team": "a"}}), kind="ClusterTrackingTarget")
    made = await tried(kube, body, "clustertrackingtargets", "")
    assert made["spec"]["namespaceSelector"] == {"matchLabels": {"team": "a"}}


@pytest.mark.parametrize("case", REFUSED[:12], ids=lambda case: case.name)
async def test_a_wrong_cluster_target_is_refused_alike(kube, case):
    with pytest.raises(ApiError) as refused:
        await tried(kube, target(case.spec, kind="ClusterTrackingTarget"), "clustertrackingtargets", "")
    assert case.field in refused.value.message


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (spec(namespaceSelector={}), "spec.namespaceSelector"),
        ({"backend": {"mlflow": {"trackingUri": URI, "url": URI}}}, "spec.backend.mlflow.url"),
        ({"backend": {"mlfow": {}, "mlflow": {"trackingUri": URI}}}, "spec.backend.mlfow"),
        (spec(auth=BEARER | {"token": "x"}), "spec.backend.mlflow.auth.token"),
        (spec(auth={"basic": {"namespace": "c"}}), "spec.backend.mlflow.auth.basic.namespace"),
        (spec(registerModels=[]), "spec.registerModels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_kubectl_refuses_a_field_that_there_is_not(kubectl, namespace, wrong, field):
    said = kubectl("apply", "-n", namespace, "-f", "-", stdin=target(wrong), check=False)
    assert said.code == 1
    assert f'unknown field "{field}"' in said.err or f'.{field}"' in said.err


async def test_a_backend_that_was_pruned_to_nothing_is_refused(kube):
    with pytest.raises(ApiError, match="backend: name exactly one tracker"):
        await tried(kube, target({"backend": {"wandb": {"project": "a/b"}}}), fieldValidation="Ignore")


def test_the_smallest_target_is_four_lines_of_yaml(kubectl, namespace):
    text = (
        "apiVersion: pipetrail.dev/v1alpha1\n"
        "kind: TrackingTarget\n"
        "metadata: {name: mlflow}\n"
        f"spec: {{backend: {{mlflow: {{trackingUri: '{URI}'}}}}}}\n"
    )
    kubectl("apply", "-n", namespace, "-f", "-", stdin=text)
    assert json.loads(kubectl("get", "tt", "mlflow", "-n", namespace, "-o", "json").out)["spec"] == spec(suspend=False)


def test_a_bare_on_in_yaml_is_taken(kubectl, namespace):
    text = (
        f"{{apiVersion: {api.API_VERSION}, kind: TrackingTarget, metadata: {{name: mlflow}},\n"
        f" spec: {{backend: {{mlflow: {{trackingUri: '{URI}'}}}}, capture: {{stdout: On}}}}}}"
    )
    kubectl("apply", "-n", namespace, "-f", "-", stdin=text)
    found = api.decode_target(json.loads(kubectl("get", "tt", "mlflow", "-n", namespace, "-o", "json").out))
    assert isinstance(found, api.FoundTarget)
    assert found.spec.capture.stdout == "On"


def table(text):
    """kubectl's table as rows of cells; its columns stand at least two blanks apart where a heading starts."""
    head, *rows = text.rstrip("\n").split("\n")
    starts = [i for i, c in enumerate(head) if c != " " and (i == 0 or head[i - 1] == " ")]
    ends = [*starts[1:], None]
    return [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in (head, *rows)]


async def test_a_target_that_nobody_has_looked_at_says_so(kube):
    made = await tried(kube, target(spec()))
    shown = [(it["type"], it["status"], it["reason"]) for it in made["status"]["conditions"]]
    kinds = ("Accepted", "ResolvedRefs", "Reachable", "Ready")
    assert shown == [(kind, "Unknown", "Pending") for kind in kinds]


@pytest.mark.parametrize(("last_sync", "shown"), [("", "<unknown>"), (SETTLED, None)])
async def test_get_tt_shows_condition_and_counts(kube, kubectl, namespace, last_sync, shown):
    await kube.post(f"{TRACKED_RUNS}/namespaces/{namespace}/trackingtargets", target(spec()))
    ready = api.Condition(
        type="Ready", status="False", reason="TlsFailed", message="it expired", observed_generation=1,
        last_transition_time=SETTLED,
    )  # fmt: skip
    status = api.TargetStatus(
        observed_generation=1, backend="mlflow", version="3.17.0", conditions=(ready,),
        sync=api.SyncCounts(synced=12, pending=0, failed=3, last_sync=last_sync),
    )  # fmt: skip
    path = f"{TRACKED_RUNS}/namespaces/{namespace}/trackingtargets/mlflow/status"
    expected = ["mlflow", "mlflow", "False", "TlsFailed", "12", "0", "3"]
    row: list[str] = []
    for _ in range(10):  # an operator may run in this cluster: what it says first goes over what we wrote
        await kube.patch(path, {"status": api.to_json(status)})
        head, row = table(kubectl("get", "tt", "-n", namespace).out)
        if row[:7] == expected:
            break
        await asyncio.sleep(0.5)
    assert head == ["NAME", "BACKEND", "READY", "REASON", "SYNCED", "PENDING", "FAILED", "LAST-SYNC", "AGE"]
    assert row[:7] == expected
    assert row[7] == shown if shown else row[7].endswith(("s", "m", "h", "d", "y"))
    assert "it expired" in kubectl("get", "tt", "-n", namespace, "-o", "wide").out


async def test_get_trun_shows_a_run_before_and_after(kube, kubectl, namespace):
    runs = f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns"
    await kube.post(runs, tracked_run())
    head, row = table(kubectl("get", "trun", "-n", namespace).out)
    assert head == ["NAME", "RUN", "SOURCE", "OUTCOME", "SYNC", "TARGET", "AGE"]
    assert row[:-1] == ["train-1", "train", "argo", "", "Pending", "mlflow"]
    status = api.TrackedRunStatus(
        phase="Synced", outcome="succeeded", steps=4, metrics=32, changes=api.Changes(total=2),
        url="https://mlflow/#/experiments/1/runs/a",
    )  # fmt: skip
    await kube.patch(f"{runs}/train-1/status", {"status": api.to_json(status)})
    head, row = table(kubectl("get", "trun", "-n", namespace, "-o", "wide").out)
    assert head[6:] == ["AGE", "STEPS", "METRICS", "CHANGED", "URL"]
    assert row[:6] == ["train-1", "train", "argo", "succeeded", "Synced", "mlflow"]
    assert row[7:] == ["4", "32", "2", "https://mlflow/#/experiments/1/runs/a"]


async def test_the_category_shows_targets_and_runs_together(kube, kubectl, namespace):
    await kube.post(f"{TRACKED_RUNS}/namespaces/{namespace}/trackingtargets", target(spec()))
    await kube.post(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns", tracked_run())
    shown = kubectl("get", "tracking", "-n", namespace, "-o", "name").out.split()
    ours = [line for line in shown if not line.startswith("clustertrackingtarget")]
    assert ours == ["trackedrun.pipetrail.dev/train-1", "trackingtarget.pipetrail.dev/mlflow"]


async def test_the_intent_of_a_tracked_run_never_changes(kube, namespace):
    runs = f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns"
    made = await kube.post(runs, tracked_run(), fieldValidation="Strict")
    assert made["spec"] == json.loads(json.dumps(tracked_run()["spec"]))
    for change in (
        {"target": {"name": "other"}}, {"policy": {"naming": {"layout": "Flat"}}}, {"run": {"name": "other"}},
        {"attempt": 2},
    ):  # fmt: skip
        with pytest.raises(ApiError, match="spec is the intent and never changes"):
            await kube.patch(f"{runs}/train-1", {"spec": change})
    await kube.patch(f"{runs}/train-1", {"metadata": {"annotations": {api.RESEND_ANNOTATION: "now"}}})


async def test_a_full_status_of_a_tracked_run_is_kept_to_the_letter(kube, namespace):
    runs = f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns"
    await kube.post(runs, tracked_run())
    change = api.StatusChange(item="metric", key="loss", reason="NotANumber", detail="NaN -> 0 and a tag", run="train")
    status = api.TrackedRunStatus(
        phase="Failed", reason="MaxElapsed", message="m" * 8192, outcome="failed", external_id="a", experiment_id="1",
        url="https://mlflow", digest="d", generation="2026", steps=1, metrics=2, attempts=3,
        changes=api.Changes(total=60, items=(change,) * 50), claim=api.Claim(holder="pod-1", epoch=2),
        partial=(api.StatusPartial(reason="StoreForbidden", message="bind it", step="train"),), opened_at=SETTLED,
        doubtful_at=SETTLED, settled_at=SETTLED, last_error="503",
    )  # fmt: skip
    given = json.loads(json.dumps(api.to_json(status)))
    made = await kube.patch(f"{runs}/train-1/status", {"status": given}, fieldValidation="Strict")
    assert made["status"] == given


@pytest.mark.parametrize(
    ("field", "teaches"),
    [
        ("tt.spec", ["backend\t<Object> -required-", "The tracker: exactly one key.", "Default: false."]),
        ("tt.spec.backend.mlflow", ["trackingUri\t<string> -required-", "http://mlflow.mlflow.svc:5000"]),
        ("tt.spec.naming", ["{namespace}/{pipeline}", "enum: Auto, Flat, Nested, Siblings", "Default: Auto."]),
        ("tt.spec.capture", ["enum: Always, Never, OnFailure", "Default: OnFailure."]),
        ("tt.spec.delivery", ["Default: 4.", "Default: 50.", "as in 30m or 168h"]),
        ("tt.spec.policy", ['pipetrail.dev/track: "false"']),
        ("ctt.spec.namespaceSelector", ["Empty ({}) takes all, absent takes none."]),
        ("tt.status", ["Accepted, ResolvedRefs, Reachable"]),
        ("trun.spec", ["The target that it is recorded in."]),
        ("trun.status", ["Synced: all of it is."]),
    ],
)
def test_explain_teaches(kubectl, field, teaches):
    text = kubectl("explain", field).out
    flowing = " ".join(text.replace("\t", "\0").split()).replace("\0", "\t")
    assert [words for words in teaches if words not in flowing] == []
