"""The source of KFP v1: an Argo run with KFP's names on it, and without what its compiler made of blocks."""

from typing import Any

from tests.unit.argo_cases import node, workflow
from tests.unit.kfp_cases import folded

from pipetrail.sources import Reading, argo, kfp_v1


def test_a_run_of_kfp_v1_has_argos_steps_under_the_names_that_kfp_shows():
    body, facts = folded("pets-v1")
    reading = kfp_v1.read(body, facts, cluster="lab")
    record = reading.record
    assert (argo.header(body).source, record.source) == ("kfp-v1", "kfp-v1")
    assert (record.pipeline, record.display_name) == ("pets-v1 pipeline", "pets-v1 v1 run")
    assert [(s.path, s.name) for s in record.steps] == [
        ("train-classifier", "Train the classifier"), ("report", "report"),
    ]  # fmt: skip
    assert (list(record.tags), list(record.annotations), record.partial) == (
        ["pipeline/runid"], ["pipelines.kubeflow.org/run_name"], ()
    )  # fmt: skip
    assert {f.artifact: f.figure for f in reading.files} == {
        "mlpipeline-metrics": None, "mlpipeline-ui-metadata": "views", "train-classifier-accuracy": None,
    }  # fmt: skip


def task(name: str, template: str) -> Any:
    return {"name": name, "template": template}


TEMPLATES = [
    {"name": "main", "dag": {"tasks": [task("for-loop-x-1", "for-loop-x-1"), task("condition-2", "condition-2")]}},
    {"name": "for-loop-x-1", "dag": {"tasks": [task("train", "train")]}},
    {"name": "condition-2", "dag": {"tasks": [task("say", "say"), task("for-loop-3", "for-loop-3")]}},
    {"name": "for-loop-3", "dag": {"tasks": [task("train-2", "train")]}},
    {"name": "train", "container": {}, "metadata": {"annotations": {kfp_v1.TASK_NAME: "Train it"}}},
    {"name": "say", "container": {}},
]


def read(*nodes: Any) -> Reading:
    body = workflow(*nodes, phase="Succeeded", spec={"entrypoint": "main", "templates": TEMPLATES})
    body["metadata"]["labels"] = {"pipeline/runid": "r", "pipelines.kubeflow.org/kfp_sdk_version": "1.8"}
    return kfp_v1.read(body, argo.RunFacts(), cluster="c")


def turn(n: int) -> list[Any]:
    loop = f".for-loop-x-1({n}:{n})"
    output = {"artifacts": [{"name": "mlpipeline-metrics", "s3": {"key": f"{n}/metrics.tgz"}}]}
    return [
        node(loop, "DAG", templateName="for-loop-x-1"),
        node(f"{loop}.train", boundary=loop, templateName="train", outputs=output),
    ]


def test_blocks_are_no_steps_and_what_was_not_run_in_one_is_named():
    found = read(
        node("", "DAG", templateName="main"), node(".for-loop-x-1", "TaskGroup", templateName="for-loop-x-1"),
        *turn(0), *turn(1), node(".condition-9", templateName="say"),
        node(".condition-2", "Skipped", "Skipped", templateName="condition-2", message="when 'a == b' evaluated false"),
    )  # fmt: skip
    steps = found.record.steps
    assert sorted((s.path, s.name, s.outcome.status, [i.index for i in s.iteration or ()]) for s in steps) == [
        ("condition-9", "condition-9", "succeeded", []), ("say", "say", "skipped", []),
        ("train", "Train it", "succeeded", [0]), ("train", "Train it", "succeeded", [1]),
        ("train-2", "Train it", "skipped", []),
    ]  # fmt: skip


def test_files_are_those_of_their_step_though_blocks_before_it_are_gone():
    found = read(node("", "DAG", templateName="main"), *turn(0), *turn(1))
    keys = {ref.location.key: found.record.steps[ref.step].iteration[0].index for ref in found.files}
    assert keys == {"0/metrics.tgz": 0, "1/metrics.tgz": 1}


def test_templates_that_name_each_other_end():
    body = workflow(
        node(".condition-1", "Skipped", "Skipped", templateName="a"),
        spec={"templates": [{"name": "a", "dag": {"tasks": [task("x", "a"), task("y", "a")]}}]},
    )
    assert kfp_v1.read(body, argo.RunFacts(), cluster="c").record.steps == ()
