"""A run's metadata in a recording: what is written reads as it was."""

from pathlib import Path

import pytest
from msgspec import to_builtins
from tests.real.kfp import KFP, RUNS, truth

from pipetrail import recording_mlmd, recording_mlmd_writer, redact
from pipetrail.recording_redaction import named, scrubbed_metadata
from pipetrail.sources.kfp_v2.metadata import Event, Execution, RunMetadata, StoredArtifact

SECRET = "CANARY-SECRET-7f3a"


@pytest.mark.parametrize("name", RUNS)
def test_recorded_metadata_reads_as_it_was(name: str, tmp_path: Path):
    run = truth(name)["run"]["run_id"]
    first = recording_mlmd.read(KFP / "mlmd.sqlite", run)
    assert isinstance(first, RunMetadata)
    recording_mlmd_writer.write(tmp_path / "mlmd.sqlite", first)
    assert recording_mlmd.read(tmp_path / "mlmd.sqlite", run) == first


def test_values_of_every_kind_and_paths_with_indexes(tmp_path: Path):
    values = {"i": 1, "d": 1.5, "s": "text", "b": True, "o": {"list": [1.0, None, {"a": "b"}]}, "e": {}}
    run = RunMetadata(
        run_id="r", namespace="n",
        executions=(Execution(id=7, type="system.ContainerExecution", state="CACHED", custom=values, created_ms=1),),
        artifacts=(StoredArtifact(id=9, type="system.Metrics", uri="s3://b/k", custom=values),),
        events=(Event(execution_id=7, artifact_id=9, kind="OUTPUT", path=("m", 3)),),
    )  # fmt: skip
    recording_mlmd_writer.write(tmp_path / "mlmd.sqlite", run)
    assert recording_mlmd.read(tmp_path / "mlmd.sqlite", "r") == run


def test_secrets_among_inputs_and_metadata_are_withheld(tmp_path: Path):
    custom = {"inputs": {"db_password": SECRET, "url": f"https://x/?q={SECRET}"}, "note": f"it was {SECRET}"}
    run = RunMetadata(
        run_id="r", namespace="n", executions=(Execution(id=1, type="t", custom=custom),),
        artifacts=(StoredArtifact(id=2, type="t", uri=f"s3://b/{SECRET}", custom=custom),),
    )  # fmt: skip
    scrub = redact.texts(named([to_builtins(run)]))
    recording_mlmd_writer.write(tmp_path / "mlmd.sqlite", scrubbed_metadata(run, scrub))
    assert SECRET.encode() not in (tmp_path / "mlmd.sqlite").read_bytes()
    there = recording_mlmd.read(tmp_path / "mlmd.sqlite", "r")
    assert isinstance(there, RunMetadata)
    assert SECRET not in str(there)
    assert there.executions[0].custom["inputs"].keys() == {"db_password", "url"}
