import base64
import gzip
import json

import brotli
import pytest
import zstandard
from tests.unit.argo_cases import UID, at, node, params, paths, record, stamp, workflow

from pipetrail.record import Group, Lineage, Link
from pipetrail.sources import argo
from pipetrail.sources.argo import nodes

A = "workflows.argoproj.io/"


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, brotli.compress])
def test_compressed_nodes_are_nodes(pack):
    plain = workflow(node(".a"), node(".b"), phase="Succeeded")
    data = packed(pack(json.dumps(plain["status"].pop("nodes")).encode()))
    plain["status"]["compressedNodes"] = data
    assert paths(record(plain)) == {"a": "succeeded", "b": "succeeded"}
    assert record(plain).partial == ()


@pytest.mark.parametrize(
    "text",
    [
        "!!!", packed(b"\x1f\x8bnot gzip"), packed(b"\x28\xb5\x2f\xfdno"), packed(gzip.compress(b"[1]")),
        packed(gzip.compress(b"{"), ), packed(gzip.compress(b"[" * 100_000)), "é",
    ],
    # gzip writes the time: two workers would collect tests of other names.
    ids=["no base64", "no gzip", "no zstd", "a list", "half an object", "too deep", "no ASCII"],
)  # fmt: skip
def test_compressed_nodes_that_cant_be_read_are_partial(text):
    found = record(workflow(phase="Running", status={"nodes": None, "compressedNodes": text}))
    assert [p.reason for p in found.partial] == ["NodesUnreadable"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, brotli.compress])
def test_a_bomb_is_partial_and_not_unpacked(pack):
    bomb = pack(b" " * (nodes.MAX_NODES_BYTES + 10))
    found = record(workflow(status={"nodes": None, "compressedNodes": packed(bomb)}))
    assert "64 MiB" in found.partial[0].message


@pytest.mark.parametrize(
    ("meta", "spec", "want"),
    [
        ({"generateName": "churn-sweep-"}, {}, "churn-sweep"),
        ({"name": "churn-sweep-7w6gn"}, {}, "churn-sweep"),
        ({"name": "nightly-20261123"}, {}, "nightly"),
        ({"name": "train-model"}, {}, "train-model"),
        ({"generateName": "x-"}, {"workflowTemplateRef": {"name": "trainer"}}, "trainer"),
        ({"labels": {A + "cron-workflow": "retrain"}, "name": "retrain-1795462980"}, {}, "retrain"),
    ],
)
def test_the_pipeline_is_what_runs_of_it_have_in_common(meta, spec, want):
    body = workflow(**meta)
    body["spec"] = spec
    assert argo.header(body).pipeline == want


def test_the_group_and_the_trigger_come_from_what_made_the_run():
    cron = record(workflow(labels={A + "cron-workflow": "c"}, annotations={A + "scheduled-time": stamp(5)}))
    assert (cron.group, cron.trigger, cron.scheduled) == (Group(kind="cron", name="c"), "cron", at(5))
    ref = {"workflowTemplateRef": {"name": "t", "clusterScope": True}}
    assert record(workflow(spec=ref)).group == Group(kind="cluster-template", name="t")
    again = record(workflow(labels={A + "resubmitted-from-workflow": "first"}))
    assert (again.trigger, again.lineage) == ("resubmit", (Lineage(rel="resubmitted-from", name="first"),))


def test_a_header_is_read_from_metadata_alone_and_from_anything():
    meta = {"metadata": {"uid": UID, "name": "n", "namespace": "ns", "labels": {A + "phase": "Succeeded"}}}
    found = argo.header(meta)
    assert (found.uid, found.phase, found.completed, found.started, found.source) == (
        UID,
        "Succeeded",
        True,
        False,
        "argo",
    )
    assert argo.header({"metadata": {"labels": {"pipeline/runid": "r"}}}).source == "kfp-v2"
    for odd in (None, 1, "x", [], {"metadata": 3, "spec": [], "status": {"phase": {}}}):
        assert argo.header(odd).uid == ""


def test_a_mark_changes_with_what_is_read_and_not_with_the_controllers_estimates():
    body = workflow(node(".a", phase="Running"))
    before = argo.mark(body)
    body["status"]["progress"], body["metadata"]["resourceVersion"] = "1/2", "77"
    body["status"]["nodes"][next(iter(body["status"]["nodes"]))]["resourcesDuration"] = {"cpu": 9}
    assert argo.mark(body) == before
    for change in (
        {"phase": "Succeeded"},
        {"outputs": {"exitCode": "0"}},
        {"outputs": params(a="1")},
        {"taskResultSynced": True},
    ):
        changed = workflow(node(".a", phase="Running") | change)
        assert argo.mark(changed) != before
    assert argo.mark(workflow(node(".a", phase="Running"), labels={"best": "yes"})) != before


def test_params_are_the_templates_overridden_by_the_runs_own():
    stored = {"storedWorkflowTemplateSpec": {"arguments": params(alpha="0.5", beta="two")}}
    found = record(workflow(spec={"arguments": params(alpha="7")}, status=stored))
    assert found.params == {"alpha": "7", "beta": "two"}


def test_a_param_without_a_value_has_its_default_and_a_number_is_text():
    arguments = {"parameters": [{"name": "d", "default": "x"}, {"name": "n", "value": 3}, {"name": "b", "value": True}]}
    assert record(workflow(spec={"arguments": arguments})).params == {"d": "x", "n": "3", "b": "true"}


OPT = {"parameters": [{"name": "opt", "valueFrom": {"configMapKeyRef": {"name": "defaults", "key": "o"}}}]}


def test_a_param_that_stands_elsewhere_is_partial():
    (partial,) = record(workflow(spec={"arguments": OPT})).partial
    assert partial.reason == "ParameterElsewhere"
    assert "ConfigMap defaults, key o" in partial.message


def test_a_param_that_stands_elsewhere_is_known_from_the_step_that_was_given_it():
    task = {"name": "a", "template": "step", "arguments": params(o="{{workflow.parameters.opt}}")}
    templates = [{"name": "step"}, {"name": "main", "dag": {"tasks": [task]}}]
    body = workflow(
        node("", "DAG", "Running", templateName="main"), node(".a", inputs=params(o="adamw")),
        spec={"arguments": OPT, "templates": templates},
    )  # fmt: skip
    found = record(body)
    assert (found.params, found.partial) == ({"opt": "adamw"}, ())


def test_a_runs_outputs_are_its_entrypoints_and_those_with_a_global_name():
    body = workflow(node("", "Steps", outputs=params(total="2.5")), status={"outputs": params(best="0.9")})
    assert record(body).outputs.parameters == {"total": "2.5", "best": "0.9"}


def test_tags_and_annotations_are_the_users():
    found = record(
        workflow(
            labels={"team": "churn", A + "phase": "Running", A + "creator-email": "alice.at.example.com"},
            annotations={
                A + "title": "Churn", A + "pod-name-format": "v2", "note": "n",
                "kubectl.kubernetes.io/last-applied-configuration": "the whole object",
            },
        )
    )  # fmt: skip
    assert (found.tags, found.annotations) == ({"team": "churn"}, {A + "title": "Churn", "note": "n"})
    assert (found.display_name, found.user) == ("Churn", "alice@example.com")


def test_git_artifacts_are_links_without_credentials():
    git = {"name": "src", "git": {"repo": "https://me:pw@git.example/x.git?t=1", "revision": "abc"}}
    body = workflow(node(".a", inputs={"artifacts": [git]}))
    assert record(body).links == (Link(rel="git", href="https://git.example/x.git@abc"),)


def test_a_workflow_that_a_step_made_is_its_child():
    resource = {"manifest": '{"kind": "Workflow", "metadata": {"generateName": "child-"}}'}
    outputs = {"parameters": [{"name": "child", "valueFrom": {"jsonPath": "{.metadata.name}"}}]}
    template = {"name": "step", "resource": resource, "outputs": outputs}
    body = workflow(node(".launch", outputs=params(child="child-x1")), spec={"templates": [template]})
    assert record(body).lineage == (Lineage(rel="child", name="child-x1"),)


def test_a_retried_run_is_another_generation_of_the_same_key():
    first, again = record(workflow()), record(workflow(status={"startedAt": stamp(500)}))
    assert first.key.run == again.key.run
    assert first.key.generation != again.key.generation


def test_a_succeeded_run_that_is_retried_runs_again():
    body = workflow(node(".a", outputs=params(acc="1")), node(".b", phase="Pending", startedAt=stamp(501)))
    assert (record(body).outcome.status, paths(record(body))) == ("running", {"a": "succeeded", "b": "pending"})
