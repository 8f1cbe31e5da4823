"""A recorded metadata store: MLMD's own file, whatever is in it."""

import sqlite3
from pathlib import Path

import pytest
from tests.unit.kfp_cases import RUNS, folded, metadata

from pipetrail import recording, recording_mlmd
from pipetrail.sources import FileRef, LogRef, S3Location
from pipetrail.sources.kfp_v2 import NoMetadata, RunMetadata

FILE = RUNS / "mlmd.sqlite"
IRIS = "bb00035d-e857-4553-9627-a97f82426c8e"


def copied(tmp_path: Path, *statements: str) -> Path:
    file = tmp_path / "mlmd.sqlite"
    file.write_bytes(FILE.read_bytes())
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return file


def test_a_run_is_read_as_the_store_itself_would_tell_it():
    found = metadata("iris")
    assert (found.run_id, found.namespace, len(found.executions)) == (IRIS, "kubeflow", 4)
    train = next(e for e in found.executions if e.custom.get("task_name") == "train")
    assert (train.type, train.state, train.custom["parent_dag_id"]) == ("system.ContainerExecution", "COMPLETE", 4)
    assert train.custom["outputs"] == {"Output": 0.9533333333333334}
    metrics = next(
        a for a in found.artifacts if a.type == "system.Metrics" and "accuracy" in a.custom and "loss" in a.custom
    )
    assert (metrics.custom["accuracy"], metrics.custom["converged"]) == (0.953333, 1)
    event = next(e for e in found.events if e.artifact_id == metrics.id)
    assert (event.kind, event.path, event.execution_id) == ("OUTPUT", ("metrics",), train.id)


def test_a_cached_run_has_the_artifacts_of_the_first():
    assert {a.id for a in metadata("iris-cached").artifacts} == {a.id for a in metadata("iris").artifacts}


def test_a_run_that_the_store_does_not_know_is_not_there():
    found = recording_mlmd.read(FILE, "another")
    assert isinstance(found, NoMetadata)
    assert (found.reason, found.again) == ("MlmdRunUnknown", False)


@pytest.mark.parametrize("data", [b"", b"no database", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_garbage(tmp_path, data):
    file = tmp_path / "mlmd.sqlite"
    file.write_bytes(data)
    assert recording_mlmd.read(file, IRIS).reason == "MlmdGarbage"


@pytest.mark.parametrize("size", [5_000, 50_000, 150_000, 250_000])
def test_a_file_that_was_cut_is_garbage_or_gives_what_is_left(tmp_path, size):
    file = tmp_path / "mlmd.sqlite"
    file.write_bytes(FILE.read_bytes()[:size])
    found = recording_mlmd.read(file, IRIS)
    assert isinstance(found, NoMetadata | RunMetadata)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE EventPath",
        "UPDATE Execution SET last_known_state = 'x'",
        "UPDATE Execution SET last_known_state = 99, name = x'ff' WHERE id = 5",
        "UPDATE ExecutionProperty SET string_value = x'ff', int_value = 'text'",
        "UPDATE ExecutionProperty SET string_value = 'mlmd-struct::AAAA' WHERE string_value IS NOT NULL",
        "UPDATE ArtifactProperty SET double_value = 'text'",
        "UPDATE Event SET artifact_id = 'x' || id, type = 'y'",
        "UPDATE EventPath SET is_index_step = 1, step_index = 'x'",
        "UPDATE Artifact SET uri = NULL, type_id = 999",
    ],
)
def test_odd_contents_are_read_as_far_as_they_go(tmp_path, statement):
    found = recording_mlmd.read(copied(tmp_path, statement), IRIS)
    assert isinstance(found, RunMetadata) == (statement != "DROP TABLE EventPath")


def test_two_contexts_of_one_name_are_no_answer(tmp_path):
    twice = "INSERT INTO Type (name, type_kind) VALUES ('system.PipelineRun', 2)"
    more = f"INSERT INTO Context (type_id, name) SELECT max(id), '{IRIS}' FROM Type"
    assert recording_mlmd.read(copied(tmp_path, twice, more), IRIS).reason == "MlmdRunUnknown"


def test_a_value_beyond_the_limit_is_not_read(tmp_path):
    file = copied(
        tmp_path, "UPDATE ArtifactProperty SET string_value = hex(zeroblob(5000000)) WHERE name = 'display_name'"
    )
    assert recording_mlmd.read(file, IRIS).reason == "MlmdGarbage"


def test_a_run_of_a_million_rows_is_too_much(tmp_path):
    many = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000) INSERT INTO "
        "ExecutionProperty (execution_id, name, is_custom_property, int_value) SELECT 6, 'p' || i, 1, i FROM n"
    )
    assert recording_mlmd.read(copied(tmp_path, many), IRIS).reason == "MlmdTooMuch"


async def test_a_recordings_own_store_goes_before_its_folders(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").write_text("")
    reader = recording.load(run).reader()
    assert (await reader.metadata("kubeflow", IRIS)).reason == "NoMetadata"
    (tmp_path / "mlmd.sqlite").write_bytes(FILE.read_bytes())
    assert isinstance(await reader.metadata("kubeflow", IRIS), RunMetadata)
    (run / "mlmd.sqlite").write_bytes(b"garbage")
    assert (await reader.metadata("kubeflow", IRIS)).reason == "MlmdGarbage"


async def test_the_experiment_is_what_kfps_api_was_recorded_to_say(tmp_path):
    run_id = folded("iris")[0]["metadata"]["labels"]["pipeline/runid"]
    assert (await recording.load(RUNS / "iris").reader().metadata("kubeflow", run_id)).experiment == "iris experiments"
    (tmp_path / "api").mkdir()
    (tmp_path / "events.jsonl").write_text("")
    for odd in ("", "[]", '{"display_name": 3}', "[" * 100_000):
        (tmp_path / "api" / "experiment.json").write_text(odd)
        assert (await recording.load(tmp_path).reader().metadata("kubeflow", run_id)).experiment == ""


async def test_what_a_cached_task_printed_lies_in_the_recording_of_its_first_run():
    key = "v2/artifacts/iris-train/bb00035d-e857-4553-9627-a97f82426c8e/train/9d2f50f1-a35c-4948-a856-fbf62fce37ea"
    place = S3Location(endpoint="x", bucket="mlpipeline", key=f"{key}/executor-logs-0")
    reader = recording.load(RUNS / "iris-cached").reader()
    found = await reader.log("kubeflow", LogRef(step=0, pod=None, pod_uid=None, archived=place))
    assert b"epoch=0 loss=1.0000" in found.blobs[0].data


@pytest.mark.parametrize("key", ["../../../argo/churn-sweep/meta.json", "", "/", "a\0b"])
async def test_no_key_leads_out_of_a_store(key):
    reader = recording.load(RUNS / "iris-cached").reader()
    ref = FileRef(step=0, artifact="a", path=None, location=S3Location(endpoint="x", bucket="..", key=key))
    assert (await reader.artifact("kubeflow", ref)).present is False
