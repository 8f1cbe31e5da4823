"""Whatever JSON stands where a Workflow of KFP should, and whatever its metadata store says: a record, no exception."""

import json
from itertools import cycle
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.property.test_argo_fuzz import JSON, changed, spots
from tests.unit.kfp_cases import AWAY, V2, folded, metadata

from pipetrail.formats import executor_output
from pipetrail.formats.executor_output import LauncherLog
from pipetrail.record import to_json
from pipetrail.redact import redact
from pipetrail.sources import argo, kfp_v1, kfp_v2
from pipetrail.sources.kfp_v2 import Metadata, RunMetadata
from pipetrail.sources.kfp_v2.metadata import Event, Execution, StoredArtifact

OUTPUTS = '{"dag":{"outputs":{"parameters":{"a":{"valueFromParameter":{"producerSubtask":"a"}}}}}}'
PATCH = '{"containers":[{"command":["--executor_input","{\\"inputs\\":3}","--execution_id"]}]}'
TEXTS = st.sampled_from([
    "", "train", "for-loop-2", "iteration-item", "mlmd-struct::", "mlmd-struct::!", "mlmd-struct::CgA=", "\ud800", "-1",
    "0", "9" * 5000, "{", "null", "[1]", OUTPUTS, PATCH, "executor-logs", "s3://[", "NaN",
])  # fmt: skip
VALUES = st.integers() | st.floats() | st.booleans() | TEXTS | JSON.filter(lambda v: isinstance(v, dict))
NAMES = st.sampled_from([
    "display_name", "task_name", "inputs", "outputs", "parent_dag_id", "iteration_index", "pod_uid",
    "cached_execution_id", "store_session_info", "plugins.mlflow.run_id", "confusionMatrix", "confidenceMetrics",
    "evaluationSlices", "accuracy", "\ud800",
])  # fmt: skip
PROPERTIES = st.dictionaries(NAMES, VALUES, max_size=6)
IDS = st.integers(0, 40)
TYPES = st.sampled_from([
    "", "system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics", "system.HTML",
    "system.Markdown", "system.Model", "a.b@1",
])  # fmt: skip


@st.composite
def stored(draw: st.DrawFn, name: str) -> RunMetadata:
    """Executions that are each other's parents, artifacts of theirs, and events between any of them."""
    states = st.sampled_from(["UNKNOWN", "RUNNING", "COMPLETE", "FAILED", "CACHED", "CANCELED"])
    executions = st.builds(
        Execution, id=IDS, type=st.just("system.ContainerExecution"), state=states, custom=PROPERTIES
    )
    uris = TEXTS | st.just("s3://b/k")
    artifacts = st.builds(StoredArtifact, id=IDS, type=TYPES, uri=uris, name=TEXTS, custom=PROPERTIES)
    paths = st.lists(TEXTS | st.integers(-1, 3), max_size=3).map(tuple)
    events = st.builds(
        Event,
        execution_id=IDS,
        artifact_id=IDS,
        kind=st.sampled_from(["OUTPUT", "INPUT", "DECLARED_OUTPUT"]),
        path=paths,
    )
    own = metadata(name)
    return RunMetadata(
        run_id=own.run_id, namespace=own.namespace,
        executions=(*own.executions, *draw(st.lists(executions, max_size=8))),
        artifacts=(*own.artifacts, *draw(st.lists(artifacts, max_size=8))),
        events=(*own.events, *draw(st.lists(events, max_size=12))),
    )  # fmt: skip


def read_all(body: Any, facts: argo.RunFacts, told: Metadata, log: LauncherLog) -> None:
    argo.header(body)
    for source in (kfp_v2.read(body, facts, told, cluster="c"), kfp_v1.read(body, facts, cluster="c")):
        launchers = cycle(("checked", "alone", "silent"))
        steps = tuple(kfp_v2.merged(s, log, next(launchers), s.finished)[0] for s in source.record.steps)
        to_json(redact(replace(source.record, steps=steps))).encode()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_recorded_run_with_anything_anywhere_is_still_a_record(data):
    name = data.draw(st.sampled_from(V2))
    body, facts = folded(name)
    places = [s for s in spots(body) if s[0] in ("metadata", "status") or "templates" in s]
    for _ in range(data.draw(st.integers(1, 4))):
        changed(body, data.draw(st.sampled_from(places)), data.draw(JSON | TEXTS | st.just(...)))
    told = data.draw(stored(name) | st.just(AWAY))
    read_all(body, facts, told, LauncherLog())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(V2).flatmap(lambda n: st.tuples(st.just(n), stored(n))), st.binary(max_size=400))
def test_any_metadata_and_any_log_give_a_record(told, log):
    name, found = told
    body, facts = folded(name)
    text = b"I1123 20:21:06.346828 15 launcher_v2.go:1230] ExecutorOutput: {\n" + log
    read_all(body, facts, found, executor_output.read(text))


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_anything_with_kfps_label_is_a_record(body):
    whole = {"metadata": {"labels": {"pipeline/runid": "r"}, "namespace": "n"}, "spec": body, "status": body}
    read_all(whole, argo.RunFacts(), RunMetadata(run_id="r", namespace="n"), LauncherLog())
    read_all(body, argo.RunFacts(), AWAY, LauncherLog())


@settings(max_examples=150, deadline=None)
@given(JSON, JSON)
def test_any_output_that_a_launcher_logs_is_read_back(parameters, metadata_):
    given_ = {
        "parameterValues": {"p": parameters},
        "artifacts": {"m": {"artifacts": [{"uri": "u", "metadata": metadata_}]}},
    }
    try:
        text = json.dumps(given_, indent=2, allow_nan=False)
    except ValueError:
        return  # KFP refuses it
    log = executor_output.read(f"I1123 20:21:06.346828 15 launcher_v2.go:1230] ExecutorOutput: {text}\n".encode())
    want = json.loads(text)
    (output,) = log.outputs
    assert output.parameters == want["parameterValues"]
    kept = want["artifacts"]["m"]["artifacts"][0]["metadata"]
    assert output.artifacts["m"][0].metadata == (kept if isinstance(kept, dict) else {})
    assert log.program == b""
