"""``pipetrail preview`` without a cluster: what would leave it, from recordings and files."""

import gzip
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipetrail.cli import app

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "data" / "argo"
NAMES = sorted(p.name for p in RUNS.iterdir() if p.is_dir())
TARGET = """\
apiVersion: pipetrail.dev/v1alpha1
kind: TrackingTarget
metadata: {name: mlflow}
spec: {backend: {mlflow: {trackingUri: "http://mlflow.mlflow.svc:5000"}}, capture: {stdout: On}}
"""
WORKFLOW = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "Workflow",
    "metadata": {"name": "odd-x7k2p", "generateName": "odd-", "namespace": "team-a", "uid": "u1"},
    "spec": {"arguments": {"parameters": [{"name": "n", "value": "[bold]x[/bold] [/nope] :warning:"}]}},
    "status": {"phase": "Running", "startedAt": "2026-11-25T01:00:00Z"},
}


def preview(*args: str | Path):
    """The answer of the command; a traceback is one of the test."""
    done = CliRunner().invoke(app, ["preview", *map(str, args)], prog_name="pipetrail")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target.yaml"
    path.write_text(TARGET)
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shaped", [False, True])
def test_a_recorded_run_is_a_table_of_at_most_120_columns(name, shaped, target):
    done = preview("--recording", RUNS / name, *(["--target", target] if shaped else []))
    assert done.exit_code == 0
    assert [line for line in done.stdout.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", ["loop-retry", "odd-values"])
def test_json_is_the_record_and_yaml_says_the_same(name):
    as_json = preview("--recording", RUNS / name, "--cluster", "lab", "-o", "json")
    as_yaml = preview("--recording", RUNS / name, "--cluster", "lab", "-o", "yaml")
    record = json.loads((RUNS / f"{name}.record.json").read_text())
    assert record["schema"] == "pipetrail.record/v1"
    assert json.loads(as_json.stdout) == record
    assert yaml.safe_load(as_yaml.stdout) == record


def test_with_a_target_the_tracker_runs_are_shown_as_they_would_be_sent(target):
    shown = json.loads(preview("--recording", RUNS / "loop-retry", "--target", target, "-o", "json").stdout)
    assert shown["schema"] == "pipetrail.trackerruns/v1"
    assert [run["name"] for run in shown["runs"]] == ["loop-retry-llhth", "fit k=a", "fit k=b", "fit k=c"]
    metrics = {m["key"]: m["value"] for m in shown["runs"][0]["metrics"]}
    assert (metrics["fit/loss.min"], metrics["fit/loss.max"]) == (2.5, 6.5)
    assert [f["path"] for f in shown["runs"][0]["files"]] == ["pipetrail/artifacts.json", "pipetrail/artifacts.md"]


def test_the_table_shows_the_description_too(target):
    shown = preview("--recording", RUNS / "loop-retry", "--target", target).stdout
    assert "DESCRIPTION\n  Argo workflow `loop-retry-llhth` in namespace `team-a`: **succeeded**" in shown


def test_figures_are_shown_with_their_kind_and_in_json_with_their_data(target):
    run = ("--recording", ROOT / "tests" / "data" / "kfp" / "iris", "--target", target)
    lines = [line.split() for line in preview(*run).stdout.splitlines()]
    shown = lines.index(["FIGURE", "KIND"])
    assert lines[shown + 1 : shown + 3] == [["train/cls", "confusion_matrix"], ["evaluate/roc", "roc_curve"]]
    (plot,) = [
        f for f in json.loads(preview(*run, "-o", "json").stdout)["runs"][0]["figures"] if f["path"] == "train/cls"
    ]
    assert plot["figure"] == {
        "kind": "confusion_matrix", "name": "cls", "labels": ["setosa", "versicolor", "virginica"],
        "rows": [[10, 0, 0], [0, 8, 1], [0, 2, 9]],
    }  # fmt: skip


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize("shaped", [False, True])
def test_a_secret_parameter_is_in_no_form_of_it(form, shaped, target):
    done = preview("--recording", RUNS / "params-kinds", "-o", form, *(["--target", target] if shaped else []))
    assert done.exit_code == 0
    assert "CANARY-SECRET" not in done.output


def test_what_users_wrote_is_no_markup(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(WORKFLOW))
    assert "[bold]x[/bold] [/nope] :warning:" in preview("-f", path).stdout


def test_items_of_loops_are_shown_as_their_author_wrote_them():
    assert "maps[lr=0.05 model=gbm]" in preview("--recording", RUNS / "loops-all").stdout


def test_of_a_workflow_in_a_file_is_said_what_a_file_cannot_tell(tmp_path):
    lines = gzip.decompress((RUNS / "loop-retry" / "events.jsonl.gz").read_bytes()).splitlines()
    bodies = [e["object"] for e in map(json.loads, lines) if e["kind"] == "Workflow"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(bodies[-1]))
    shown = json.loads(preview("-f", path, "-o", "json").stdout)
    assert shown["outcome"]["status"] == "succeeded"
    assert [p["reason"] for p in shown["partial"]] == ["NotInTheFile"]


def test_a_workflow_of_kfp_in_a_file_shows_its_tasks_and_what_the_file_does_not_tell(tmp_path):
    lines = gzip.decompress((ROOT / "tests" / "data" / "kfp" / "iris" / "events.jsonl.gz").read_bytes()).splitlines()
    (body,) = [e["object"] for e in map(json.loads, lines) if e["kind"] == "Workflow"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(body))
    shown = json.loads(preview("-f", path, "-o", "json").stdout)
    assert [(s["path"], s["outcome"]["status"]) for s in shown["steps"]] == [
        ("prepare", "succeeded"), ("train", "succeeded"), ("evaluate", "succeeded"),
    ]  # fmt: skip
    assert [p["reason"] for p in shown["partial"]] == ["MlmdNotAsked", "NotInTheFile"]


BAD_FILES = {
    "a: [": "line 1: ",
    "kind: List": "holds no Workflow",
    "[]": "holds no Workflow",
    "": "holds no Workflow",
    "kind: Workflow": "has no metadata",
    '!!python/object/apply:os.system ["id"]': "could not determine a constructor",
    "\udcff": "not UTF-8",
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.items())
def test_a_file_that_is_no_workflow_is_refused_in_one_sentence(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(preview("-f", path), said)


BAD_TARGETS = {
    "a: [": "line 1: ",
    "spec: {backend: {}}": "write pipetrail.dev/v1alpha1",
    "- a list": "apiVersion",
    TARGET.replace("http://", "ftp://"): "trackingUri: start it with http:// or https://",
    TARGET.replace("stdout: On", "stdout: Sometimes"): "stdout",
    TARGET.replace("spec:", "spec: {backend: {}}\nx:"): "name exactly one tracker",
    TARGET.replace("metadata: {name: mlflow}", "metadata: 7"): "metadata",
}


@pytest.mark.parametrize(("text", "said"), BAD_TARGETS.items())
def test_a_file_that_is_no_target_is_refused_with_the_field_and_the_fix(tmp_path, text, said):
    path = tmp_path / "target.yaml"
    path.write_text(text)
    refused(preview("--recording", RUNS / "loop-retry", "--target", path), said)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name one: a run, --recording DIR or -f FILE"),
        (["x", "-f", "y"], "name one: a run, --recording DIR or -f FILE"),
        (["--recording", "/nowhere"], "/nowhere is no folder"),
        (["--recording", str(ROOT / "docs")], "it is no recording"),
        (["-f", "/nowhere.yaml"], "No such file"),
        (["-f", "/nowhere.yaml", "-o", "csv"], "csv"),
        (["--recording", str(RUNS / "loop-retry"), "--target", "mlflow"], "there is no file mlflow"),
    ],
)
def test_a_wrong_command_line_is_refused(args, said):
    refused(preview(*args), said)


def refused(done, said: str) -> None:
    """Exit code 2 and one sentence that holds `said`, in typer's frame."""
    assert done.exit_code == 2
    words = " ".join(line.strip("│ ") for line in done.output.splitlines() if line.startswith("│"))
    assert said in words
    assert "Traceback" not in done.output
    assert done.stdout == ""
