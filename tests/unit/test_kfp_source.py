"""The source of KFP v2: what of a Workflow is the user's, from recorded runs and what other runs make of them."""

import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from tests.unit.kfp_cases import (
    AWAY,
    V2,
    driver,
    executions,
    folded,
    metadata,
    nodes,
    read,
    retried,
    step,
    without,
)

from pipetrail.record import (
    Artifact,
    FromMlmd,
    FromParameter,
    Group,
    Lineage,
    Link,
    LoopItem,
    Outcome,
    Point,
    to_json,
)
from pipetrail.sources import S3Location, Unreadable, argo, kfp_v2
from pipetrail.sources.kfp_v2 import NoMetadata, RunMetadata
from pipetrail.sources.kfp_v2.metadata import StoredArtifact

LOOP = r"for-loop-2\."


def paths(record):
    return [(s.path, tuple(i.item for i in s.iteration or ())) for s in record.steps]


# --- whose steps, and what they are called ------------------------------------------------------------------------


def test_drivers_launchers_and_groups_are_no_steps_and_a_users_pipeline_is_a_composite_one():
    record = read("loops").record
    assert sorted(paths(record)) == [
        ("cleanup", ()), ("evaluate-import", ()), ("importer", ()), ("inner-sweep", ()), ("inner-sweep/best", ()),
        ("inner-sweep/trial", (2,)), ("inner-sweep/trial", (4,)), ("inner-sweep/trial", (8,)), ("say", ()),
        ("say-2", ()), ("say-3", ()),
    ]  # fmt: skip
    assert [s.path for s in record.steps if s.kind == "composite"] == ["inner-sweep"]


@pytest.mark.parametrize("name", V2)
def test_a_run_whose_every_node_is_wrapped_in_a_retry_gives_the_same_record(name):
    body, _ = folded(name)
    assert read(name, body=retried(body)).record == read(name).record


def test_a_step_has_the_display_name_of_its_task_also_where_only_the_workflow_tells_it():
    for told in (None, AWAY):
        record = read("iris", told).record
        assert [(s.path, s.name, s.template) for s in record.steps] == [
            ("prepare", "prepare", "prepare"), ("train", "Train the model", "train"),
            ("evaluate", "evaluate", "evaluate"),
        ]  # fmt: skip


def test_a_run_has_its_display_name_its_pipeline_and_its_experiment():
    record = read("iris", replace(metadata("iris"), experiment="iris experiments")).record
    assert (record.source, record.pipeline, record.display_name) == ("kfp-v2", "iris-train", "iris run 1")
    assert record.group == Group(kind="experiment", name="iris experiments")
    assert record.tags == {"pipeline/runid": "bb00035d-e857-4553-9627-a97f82426c8e"}
    assert record.annotations == {"pipelines.kubeflow.org/run_name": "iris run 1"}
    assert read("iris", replace(AWAY, experiment="e")).record.group == Group(kind="experiment", name="e")


def test_a_recurring_run_names_its_schedule_and_when_it_was_due():
    body, _ = folded("iris")
    labels = body["metadata"]["labels"]
    for key, value in {"scheduledWorkflowName": "nightly", "workflowEpoch": "1795465240"}.items():
        labels[f"scheduledworkflows.kubeflow.org/{key}"] = value
    labels["scheduledworkflows.kubeflow.org/isOwnedByScheduledWorkflow"] = "true"
    record = read("iris", body=body).record
    assert (record.trigger, record.group) == ("cron", Group(kind="cron", name="nightly"))
    assert record.scheduled == datetime.fromtimestamp(1795465240, UTC)
    assert list(record.tags) == ["pipeline/runid"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--pipeline_name", "namespace/team-a/pipeline/churn"], "churn"),
        (["--pipeline_name", "churn"], "churn"),
        (["--pipeline_name"], "fails"),
        ([], "fails"),
    ],
)
def test_a_pipeline_has_the_name_that_its_drivers_are_told(args, expected):
    body, _ = folded("fails")
    for template in body["spec"]["templates"]:
        if "container" in template:
            template["container"]["args"] = args
    assert argo.header(body).pipeline == expected


# --- what went in -------------------------------------------------------------------------------------------------


def test_params_have_the_types_that_the_pipeline_declares_with_and_without_the_store():
    for told in (None, AWAY):
        record = read("iris", told).record
        assert record.params == {
            "epochs": 4, "learning_rate": 0.05, "options": {"l1": 0.1, "l2": 0.2}, "shuffle": True,
            "source": "s3://data/iris.csv", "tags": ["a", "b"],
        }  # fmt: skip
        assert step(record, "prepare").params == {"rows": 50, "source": "s3://data/iris.csv"}
        kinds = {name: type(value) for name, value in step(record, "train").params.items()}
        assert kinds == {"epochs": int, "learning_rate": float, "options": dict, "shuffle": bool, "tags": list}


def test_params_of_a_run_that_has_no_node_yet_stand_in_its_template():
    body, facts = folded("fails")
    body["status"] = {}
    for known in (argo.RunFacts(), facts):
        assert kfp_v2.read(body, known, AWAY, cluster="lab").record.params == {"code": 9}


def test_a_default_that_only_the_launcher_adds_is_a_param():
    body, _ = folded("fails")
    said = nodes(body)[".root.boom-driver"]
    patch = next(p for p in said["outputs"]["parameters"] if p["name"] == "pod-spec-patch")
    patch["value"] = patch["value"].replace('\\"parameterValues\\":{\\"code\\":9}', '\\"parameterValues\\":{}')
    assert step(read("fails", body=body).record, "boom").params == {"code": 9}


def test_inputs_of_a_cached_task_come_from_the_store_else_from_what_its_task_says():
    told = step(read("iris-cached").record, "train").params
    assert told == step(read("iris").record, "train").params
    assert step(read("iris-cached", AWAY).record, "train").params == told
    assert step(read("iris-cached", AWAY).record, "prepare").params == {"rows": 50, "source": "s3://data/iris.csv"}


# --- loops, branches, exits ---------------------------------------------------------------------------------------


def test_items_of_a_loop_are_those_of_its_list_as_they_were_written():
    turns = [s.iteration for s in read("loops").record.steps if s.path == "inner-sweep/trial"]
    assert sorted(turns, key=str) == [(LoopItem(index=n, item=item),) for n, item in enumerate((2, 4, 8))]


def without_list(body):
    """The loop's list comes from elsewhere and stands nowhere in the Workflow."""
    for name, node in nodes(body).items():
        if name.endswith(("iteration-driver", "iteration-item-driver")):
            for parameter in node["inputs"]["parameters"]:
                if parameter["name"] == "task":
                    parameter["value"] = parameter["value"].replace('"raw":"[2, 4, 8]"', '"inputParameter":"x"')
    return body


def test_items_that_stand_nowhere_in_the_workflow_come_from_the_store_else_from_a_task_that_was_given_them():
    for told in (None, AWAY):
        body = without_list(folded("loops")[0])
        turns = [s.iteration for s in read("loops", told, body).record.steps if s.path == "inner-sweep/trial"]
        assert sorted(i.item for turn in turns for i in turn or ()) == [2, 4, 8]


def test_a_turn_whose_item_nothing_tells_is_told_by_its_index():
    body = without(without_list(folded("loops")[0]), r"trial-driver")
    for name, node in nodes(body).items():
        if name.endswith(".trial"):
            node["inputs"] = {}
    turns = [s.iteration for s in read("loops", AWAY, body).record.steps if s.path == "inner-sweep/trial"]
    assert sorted(i.item for turn in turns for i in turn or ()) == [0, 1, 2]


def test_a_loop_in_a_loop_gives_a_step_per_turn_of_both():
    body, _ = folded("loops")
    deep = {}
    for key, node in body["status"]["nodes"].items():
        inner = node["name"].replace(
            "iteration-item.trial", "iteration-item.for-loop-9.iteration-iterations(1:1).iteration-item.trial"
        )
        deep[key] = {**node, "name": inner}
    body["status"]["nodes"] = deep
    found = [s.iteration for s in read("loops", body=body).record.steps if s.path == "inner-sweep/trial"]
    assert sorted((a.index, a.item, b.index) for a, b in found) == [(0, 2, 1), (1, 4, 1), (2, 8, 1)]


def test_a_loop_over_nothing_was_skipped_and_names_what_it_would_have_run():
    body = without(folded("loops")[0], r"iteration-iterations")
    loop = nodes(body)[".root.exit-handler-1.inner-sweep.for-loop-2"]
    body["status"]["nodes"]["empty"] = {
        "id": "empty", "name": loop["name"] + ".iteration-iterations", "type": "Skipped", "phase": "Skipped",
        "templateName": "comp-for-loop-2-iteration", "message": "Skipped, empty params",
    }  # fmt: skip
    found = step(read("loops", body=body).record, "inner-sweep/trial")
    assert (found.outcome.status, found.outcome.reason, found.points) == ("skipped", "EmptyList", ())


def test_branches_that_were_not_taken_are_skipped_steps():
    record = read("loops").record
    assert [step(record, name).outcome.reason for name in ("say", "say-3")] == ["WhenFalse", "WhenFalse"]
    assert [step(record, name).outcome.status for name in ("say", "say-2", "say-3")] == [
        "skipped",
        "succeeded",
        "skipped",
    ]


def test_a_pipeline_that_was_not_run_shows_the_tasks_in_it():
    body = without(folded("loops")[0], r"inner-sweep")
    body["status"]["nodes"]["n"] = {
        "id": "n", "name": f"{body['metadata']['name']}.root.exit-handler-1.inner-sweep", "type": "Skipped",
        "phase": "Omitted", "templateName": "comp-inner-sweep", "message": "omitted: depends condition not met",
    }  # fmt: skip
    record = read("loops", body=body).record
    found = {s.path: (s.kind, s.outcome.status, s.outcome.reason) for s in record.steps if "inner" in s.path}
    assert found == {
        "inner-sweep": ("composite", "omitted", "Depends"), "inner-sweep/best": ("pod", "omitted", "Depends"),
        "inner-sweep/trial": ("pod", "omitted", "Depends"),
    }  # fmt: skip


def test_what_runs_at_exit_is_an_exit_handler():
    assert [(s.path, s.role) for s in read("loops").record.steps if s.role != "step"] == [("cleanup", "exit-handler")]


def renamed(name, *pairs):
    """A recorded body whose nodes are called otherwise."""
    body, _ = folded(name)
    for node in body["status"]["nodes"].values():
        for old, new in pairs:
            node["name"] = node["name"].replace(old, new)
    return body


def test_a_task_that_ignores_how_those_before_it_went_is_a_step_of_its_own():
    """The compiler makes it the exit hook of the task before it, as it does with the task of an ExitHandler."""
    body = renamed("loops", ("exit-handler-1.onExit", "exit-handler-1.importer.onExit"))
    record = read("loops", body=body).record
    assert sorted(paths(record)) == sorted(paths(read("loops").record))
    assert step(record, "cleanup").role == "step"


def test_what_would_have_run_at_exit_is_named_where_the_block_was_skipped():
    body = without(folded("loops")[0], r"exit-handler-1")
    body["status"]["nodes"]["n"] = {
        "id": "n", "name": f"{body['metadata']['name']}.root.exit-handler-1", "type": "Skipped", "phase": "Omitted",
        "templateName": "comp-exit-handler-1", "message": "omitted: depends condition not met",
    }  # fmt: skip
    for template in body["spec"]["templates"]:
        for task in template.get("dag", {}).get("tasks", []):
            if task["name"] == "importer":
                task["hooks"] = {"exit": {"template": "exit-hook-root-cleanup"}}
    found = step(read("loops", body=body).record, "cleanup")
    assert (found.outcome.status, found.outcome.reason, found.role) == ("omitted", "Depends", "step")


def test_templates_that_name_each_other_end():
    body = without(folded("loops")[0], r"exit-handler-1")
    body["spec"]["templates"] = [
        {"name": "a", "dag": {"tasks": [{"name": f"condition-{n}", "template": "a"} for n in (1, 2)]}}
    ]
    body["status"]["nodes"]["n"] = {
        "id": "n", "name": f"{body['metadata']['name']}.root.condition-1", "type": "Skipped", "phase": "Skipped",
        "templateName": "a",
    }  # fmt: skip
    assert read("loops", body=body).record.steps == ()


@pytest.mark.parametrize("told", [None, AWAY])
def test_a_task_that_its_driver_does_itself_has_the_drivers_node_and_succeeded(told):
    body = without(renamed("iris"), r"root\.prepare\b(?!-driver)")
    for node in body["status"]["nodes"].values():
        node["name"] = node["name"].replace("prepare-driver", "prepare")
    record = read("iris", told, body).record
    assert sorted(paths(record)) == [("evaluate", ()), ("prepare", ()), ("train", ())]
    assert step(record, "prepare").outcome == Outcome(status="succeeded")


@pytest.mark.parametrize("name", ["condition-2", "for-loop-1", "exit-handler-3", "root", "load-driver"])
def test_a_task_may_be_called_what_the_compiler_calls_its_groups(name):
    record = read("iris", body=renamed("iris", ("root.train", f"root.{name}"))).record
    assert sorted(s.path for s in record.steps) == sorted(["evaluate", "prepare", name])
    assert step(record, name).points == step(read("iris").record, "train").points


def test_outputs_of_a_pipeline_are_those_of_the_task_that_they_point_at():
    assert step(read("loops").record, "inner-sweep").outputs.parameters == {"Output": 0.587}
    assert step(read("loops").record, "inner-sweep").points == ()


def test_what_was_collected_from_a_loop_is_a_list():
    assert step(read("loops").record, "inner-sweep/best").params == {"scores": [0.527, 0.547, 0.587]}


def test_an_importer_has_its_artifact_with_and_without_the_store():
    known = step(read("loops").record, "importer")
    assert (known.kind, known.outcome.status, known.attempts) == ("importer", "succeeded", ())
    assert [(a.name, a.uri, a.type, a.metadata) for a in known.artifacts] == [
        ("artifact", "s3://mlpipeline/imported/model.bin", "system.Model", {"owner": "team-a", "rank": 2})
    ]
    assert step(read("loops", AWAY).record, "importer").artifacts == known.artifacts


# --- how it went --------------------------------------------------------------------------------------------------


def test_a_retried_task_is_one_step_with_its_attempts_and_nothing_of_a_failed_one():
    found = step(read("fails").record, "boom")
    assert (found.outcome.status, found.outcome.reason, found.points) == ("failed", "ExitCode", ())
    assert [a.pod for a in found.attempts] == [
        "fails-5tl2j-retry-system-container-impl-134665253", "fails-5tl2j-retry-system-container-impl-4228448216",
    ]  # fmt: skip


def test_a_task_that_was_killed_for_memory_says_so_and_one_whose_upstream_failed_was_omitted():
    record = read("fails").record
    assert (step(record, "oom").outcome.status, step(record, "oom").outcome.reason) == ("failed", "OOMKilled")
    assert (step(record, "say").outcome.status, step(record, "say").outcome.reason) == ("omitted", "Depends")


def test_a_cached_task_has_the_values_of_the_first_run_names_it_and_took_no_time():
    record = read("iris-cached").record
    found = step(record, "train")
    first = "bb00035d-e857-4553-9627-a97f82426c8e"
    assert (found.outcome.status, found.cached_from, found.started) == ("cached", first, found.finished)
    assert found.outputs == step(read("iris").record, "train").outputs
    assert record.lineage == (Lineage(rel="cached-from", name=first),)


def test_a_cached_task_whose_artifacts_name_no_run_names_the_first_execution():
    told = metadata("iris-cached")
    told = replace(told, artifacts=tuple(replace(a, uri="s3://b/own/place") for a in told.artifacts))
    record = read("iris-cached", told).record
    assert ({s.cached_from for s in record.steps}, record.lineage) == (
        {"execution 5", "execution 6", "execution 7"},
        (),
    )


def test_a_task_whose_work_its_driver_did_itself_is_not_cached():
    told = executions(metadata("iris-cached"), train={"state": "COMPLETE", "custom": {"cached_execution_id": ""}})
    assert step(read("iris-cached", told).record, "train").outcome == Outcome(status="succeeded")


def test_a_task_whose_condition_is_false_was_skipped_though_it_is_called_cancelled_in_the_store():
    body, _ = folded("iris-cached")
    driver(body, ".root.train-driver", cached_decision="false", condition="false")
    told = executions(metadata("iris-cached"), train={"state": "CANCELED"})
    assert step(read("iris-cached", told, body).record, "train").outcome == Outcome(
        status="skipped", reason="WhenFalse"
    )


def test_a_task_whose_driver_failed_did_so_for_that_reason():
    body = without(folded("iris")[0], r"root\.train\b(?!-driver)")
    node = nodes(body)[".root.train-driver"]
    node["phase"], node["message"] = "Failed", "main: Error (exit code 1)"
    found = step(read("iris", body=body).record, "train")
    assert (found.outcome.status, found.outcome.reason, found.points) == ("failed", "DriverFailed", ())


def test_a_run_that_was_stopped_while_a_driver_ran_says_so_of_its_task():
    body = without(folded("iris")[0], r"root\.(train|evaluate)\b(?!-driver)")
    body = without(body, r"evaluate-driver$")
    body["spec"]["shutdown"], body["status"]["phase"] = "Terminate", "Failed"
    node = nodes(body)[".root.train-driver"]
    node |= {"phase": "Failed", "message": "workflow shutdown with strategy:  Terminate", "outputs": {}}
    record = read("iris", body=body).record
    assert (record.outcome.status, step(record, "train").outcome.reason) == ("terminated", "Terminated")


def test_a_run_that_was_cancelled_in_kfp_was_terminated_though_argo_says_that_its_time_was_over():
    body = without(folded("iris")[0], r"root\.evaluate\b(?!-driver)")
    body["spec"]["activeDeadlineSeconds"] = 0
    body["status"] |= {"phase": "Failed", "message": "Max duration limit exceeded"}
    pod = nodes(body)[".root.train.executor"]
    pod |= {
        "phase": "Failed",
        "message": "Pod was active on the node longer than the specified deadline",
        "outputs": {},
    }
    record = read("iris", body=body).record
    train = step(record, "train")
    assert (record.outcome.status, record.outcome.reason) == ("terminated", "Terminated")
    assert (train.outcome.status, train.outcome.reason, train.points) == ("failed", "Terminated", ())
    del body["spec"]["activeDeadlineSeconds"]
    late = read("iris", body=body).record
    assert (late.outcome.status, late.outcome.reason) == ("failed", "DeadlineExceeded")
    assert step(late, "train").outcome.reason == "DeadlineExceeded"


def test_a_task_whose_driver_was_done_when_the_run_ended_was_not_run():
    body = without(folded("iris")[0], r"root\.train\b(?!-driver)")
    assert step(read("iris", body=body).record, "train").outcome.status == "not_run"


def test_a_task_whose_driver_still_runs_is_pending():
    body = without(folded("iris")[0], r"root\.train\b(?!-driver)")
    body["status"]["phase"] = "Running"
    node = nodes(body)[".root.train-driver"]
    node["phase"], node["outputs"] = "Running", {}
    assert step(read("iris", body=body).record, "train").outcome.status == "pending"


def test_what_a_task_gave_counts_once_its_node_is_done_whatever_the_store_has():
    body, facts = folded("iris")
    nodes(body)[".root.train.executor"]["phase"] = "Running"
    body["status"]["phase"] = "Running"
    pods = {uid: p for uid, p in facts.pods.items() if "41149811" not in p.name}
    record = kfp_v2.read(body, replace(facts, pods=pods, results={}), metadata("iris"), cluster="lab").record
    assert (step(record, "train").points, step(record, "train").outputs.parameters) == ((), {})
    assert step(record, "prepare").points != ()


# --- what came out ------------------------------------------------------------------------------------------------


def test_metrics_of_the_store_say_that_they_have_been_cut():
    found = step(read("iris").record, "train")
    at = found.finished
    assert at is not None
    told = {p.key: p for p in found.points}
    assert told["accuracy"] == Point(
        key="accuracy", value=0.953333, time=told["loss"].time, source=FromMlmd(artifact="metrics"), exact=False
    )
    assert told["Output"].source == FromParameter(parameter="Output")
    assert (told["converged"].value, told["converged"].exact) == (1, True)
    assert sorted(told) == [
        "Output",
        "accuracy",
        "big",
        "converged",
        "epochs_done",
        "loss",
        "name with space/slash",
        "zero",
    ]


def test_an_output_that_is_a_text_is_no_point_even_if_it_looks_like_a_number():
    told = executions(metadata("iris"), prepare={"custom": {"outputs": {"digest": "007", "mean": 1.0, "n_rows": 2.0}}})
    found = step(read("iris", told).record, "prepare")
    assert found.outputs.parameters == {"digest": "007", "mean": 1.0, "n_rows": 2}
    assert [(p.key, p.value) for p in found.points] == [("mean", 1.0), ("n_rows", 2)]


def with_metric(**custom):
    told = metadata("iris")
    changed = [replace(a, custom={**a.custom, **custom}) if a.name == "" and a.id == 4 else a for a in told.artifacts]
    return replace(told, artifacts=tuple(changed))


def test_entries_of_a_metrics_artifact_that_are_no_numbers_are_its_metadata():
    found = step(read("iris", with_metric(note="good", per_class={"struct": {"a": 1.0}})).record, "train")
    assert next(a for a in found.artifacts if a.name == "metrics").metadata == {"note": "good", "per_class": {"a": 1.0}}


def test_a_metric_that_is_called_display_name_is_one():
    found = step(read("iris", with_metric(display_name=0.5)).record, "train")
    assert {p.key: p.value for p in found.points}["display_name"] == 0.5


def test_two_artifacts_of_one_output_are_told_apart():
    told = metadata("iris")
    more = StoredArtifact(id=99, type="system.Metrics", uri="s3://b/m2", custom={"accuracy": 0.25})
    event = next(e for e in told.events if e.artifact_id == 4)
    told = replace(told, artifacts=(*told.artifacts, more), events=(*told.events, replace(event, artifact_id=99)))
    found = step(read("iris", told).record, "train")
    assert [p.source for p in found.points if p.key == "accuracy"] == [
        FromMlmd(artifact="metrics"), FromMlmd(artifact="metrics.1"),
    ]  # fmt: skip


def test_artifacts_have_address_type_and_metadata_and_kfps_own_logs_are_none():
    found = step(read("iris").record, "prepare").artifacts
    uri = "s3://mlpipeline/v2/artifacts/iris-train/bb00035d-e857-4553-9627-a97f82426c8e/prepare/"
    uri += "dbb77810-2c5c-492f-8b28-22cd3b650cf1/data"
    assert found == (
        Artifact(
            name="data", uri=uri, type="system.Dataset", archive="none",
            metadata={"ratio": 0.25, "rows": 50.0, "source": "s3://data/iris.csv"},
        ),
    )  # fmt: skip


def test_an_artifact_without_an_output_event_is_not_the_tasks():
    told = metadata("iris")
    told = replace(told, events=tuple(replace(e, kind="INPUT") for e in told.events))
    assert [s.artifacts for s in read("iris", told).record.steps] == [(), (), ()]


def test_pages_are_fetched_from_the_runs_own_store_alone():
    refs = {r.artifact: r for r in read("iris").files}
    assert {name: ref.figure for name, ref in refs.items()} == {"md": "markdown", "page": "html"}
    assert isinstance(refs["md"].location, S3Location)
    assert (refs["md"].location.endpoint, refs["md"].location.bucket) == ("s3.lab.local:9000", "mlpipeline")
    told = metadata("iris")
    elsewhere = json.dumps({"Provider": "s3", "Params": {"endpoint": "evil.example:9000"}})
    moved = tuple(replace(a, custom={**a.custom, "store_session_info": elsewhere}) for a in told.artifacts)
    places = [r.location for r in read("iris", replace(told, artifacts=moved)).files]
    assert {p.reason for p in places if isinstance(p, Unreadable)} == {"ForeignStore"}


@pytest.mark.parametrize(
    "uri", ["", "x", "s3://", "s3://b", "https://evil.example/page", "oci://r/m", "s3://[", "file:///etc/passwd"]
)
def test_a_page_at_no_address_of_a_store_is_not_fetched(uri):
    told = metadata("iris")
    moved = tuple(replace(a, uri=uri) for a in told.artifacts)
    assert all(isinstance(r.location, Unreadable) for r in read("iris", replace(told, artifacts=moved)).files)


# --- which execution is whose -------------------------------------------------------------------------------------


def test_an_orphan_that_a_retried_driver_left_is_not_taken():
    told = metadata("iris")
    train = next(e for e in told.executions if e.custom.get("task_name") == "train")
    orphan = replace(train, id=999, state="RUNNING", custom={**train.custom, "outputs": {"Output": 0.1}, "pod_uid": ""})
    assert read("iris", replace(told, executions=(*told.executions, orphan))).record == read("iris").record


def test_an_execution_is_found_by_its_pod_where_its_driver_is_gone():
    body = without(folded("iris")[0], r"root\.train-driver$")
    for node in body["status"]["nodes"].values():
        if node["displayName"] == "train":
            node["inputs"] = {}
    assert step(read("iris", body=body).record, "train").outputs.parameters == {"Output": 0.9533333333333334}


def test_parents_that_go_in_a_circle_change_nothing():
    told = metadata("loops")
    circle = tuple(
        replace(e, custom={**e.custom, "parent_dag_id": e.id}) if e.type == "system.DAGExecution" else e
        for e in told.executions
    )
    assert read("loops", replace(told, executions=circle)).record == read("loops").record


# --- what can't be known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", V2)
def test_without_the_store_the_workflow_alone_gives_all_steps_and_says_what_is_missing(name):
    reading = read(name, AWAY)
    assert paths(reading.record) == paths(read(name).record)
    assert [s.outcome for s in reading.record.steps] == [s.outcome for s in read(name).record.steps]
    assert [(p.reason, p.step) for p in reading.record.partial] == [("MlmdUnreachable", None)]
    assert reading.again


def test_a_store_that_is_away_while_nothing_has_been_given_yet_is_not_missed():
    body, _ = folded("iris")
    body["status"] = {"phase": "Running", "nodes": {}}
    reading = read("iris", AWAY, body)
    assert (reading.record.partial, reading.again) == ((), False)


def test_a_store_that_lags_behind_a_task_is_asked_again():
    reading = read("iris", executions(metadata("iris"), train={"state": "RUNNING"}))
    assert [(p.reason, p.step) for p in reading.record.partial] == [("MlmdLags", "train")]
    assert reading.again
    assert step(reading.record, "train").outputs.parameters == {}
    assert [a.name for a in step(reading.record, "train").artifacts] == ["cls", "metrics", "model"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"namespace": "team-b"}, "MlmdOtherNamespace"),
        ({"namespace": ""}, "MlmdOtherNamespace"),
        ({"run_id": "another"}, "MlmdOtherRun"),
    ],
)
def test_nothing_of_another_run_or_namespace_is_taken(changes, reason):
    reading = read("iris", replace(metadata("iris"), **changes))
    assert [p.reason for p in reading.record.partial] == [reason]
    assert [s.outputs.parameters for s in reading.record.steps] == [{}, {}, {}]
    assert "0.953333" not in to_json(reading.record)
    assert not reading.again


def test_an_empty_store_is_one_that_lags():
    told = metadata("iris")
    reading = read("iris", RunMetadata(run_id=told.run_id, namespace=told.namespace))
    assert [p.reason for p in reading.record.partial] == ["MlmdLags"] * 3


@pytest.mark.parametrize("name", V2)
@pytest.mark.parametrize("told", [None, AWAY])
def test_specs_sources_and_sessions_never_enter_the_record(name, told):
    text = to_json(read(name, told).record)
    for never in (
        "import kfp", "def train", "executorLabel", "componentRef", "ephemeral_component", "store_session_info",
        "accesskey", "mlpipeline-minio-artifact", "--executor_input", "podSpecPatch", "inputDefinitions",
        "kfp-launcher", "kfp-driver",
    ):  # fmt: skip
        assert never not in text, never


# --- runs that others track, and v1 -------------------------------------------------------------------------------


def test_a_run_that_kfps_mlflow_plugin_records_says_so_in_its_header():
    body, _ = folded("iris")
    assert not argo.header(body).mlflow_plugin
    template = next(t for t in body["spec"]["templates"] if t["name"] == "system-container-driver")
    template["container"]["env"] = [{"name": "KFP_MLFLOW_CONFIG", "value": "{}"}]
    assert argo.header(body).mlflow_plugin


def test_a_run_of_the_plugin_that_the_store_names_is_a_link():
    told = executions(metadata("iris"), train={"custom": {"plugins.mlflow.run_id": "4f2c"}})
    assert read("iris", told).record.links == (Link(rel="kfp-mlflow-run", href="4f2c"),)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metadata": {}}, "argo"),
        ({"metadata": {"labels": {"pipeline/runid": "r", "pipelines.kubeflow.org/kfp_sdk_version": "1.8"}}}, "kfp-v1"),
        ({"metadata": {"labels": {"pipeline/runid": "r"}}}, "kfp-v2"),
        (
            {
                "metadata": {"labels": {"pipeline/runid": "r", "pipelines.kubeflow.org/kfp_sdk_version": "2"}},
                "spec": {"podMetadata": {"labels": {"pipelines.kubeflow.org/v2_component": "true"}}},
            },
            "kfp-v2",
        ),
    ],
)
def test_labels_and_what_compilers_stamp_tell_whose_workflow_it_is(changes, expected):
    assert argo.header(changes).source == expected


def test_what_no_reader_gave_is_no_metadata():
    assert read("iris", NoMetadata(reason="NoMetadata", message="x")).record.partial[0].reason == "NoMetadata"
