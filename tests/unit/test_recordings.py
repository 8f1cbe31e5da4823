"""Recordings of real runs, whole: what the folder holds, to the record that leaves the cluster.

The expected records stand beside the recordings. After a change that is meant: ``UPDATE_RECORDS=1 uv run pytest
tests/unit/test_recordings.py``, and read the diff.
"""

import json
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipetrail import capture, recording, redact
from pipetrail.record import to_json
from pipetrail.sources import FileRef, LogRef, S3Location, Unreadable, argo

DATA = Path(__file__).parent.parent / "data"
RUNS = DATA / "argo"
NAMES = sorted(f"{p.parent.name}/{p.name}" for p in (*RUNS.iterdir(), *(DATA / "kfp").iterdir()) if p.is_dir())


async def made(folder: Path) -> str:
    run = recording.load(folder)
    body, facts = run.fold()
    reading = await capture.reading(body, facts, run.reader(), cluster="lab")
    record = await capture.capture(reading, run.reader(), capture.EVERYTHING)
    return to_json(redact.redact(record), indent=1) + "\n"


@pytest.mark.parametrize("name", NAMES)
async def test_a_recorded_run_gives_the_record_beside_it(name):
    expected = DATA / f"{name}.record.json"
    record = await made(DATA / name)
    if os.environ.get("UPDATE_RECORDS"):
        expected.write_text(record)
    assert record == expected.read_text()


async def test_a_secret_parameter_is_nowhere_in_what_leaves():
    assert "CANARY-SECRET" not in await made(RUNS / "params-kinds")


async def test_the_same_recording_gives_the_same_record_twice():
    assert await made(RUNS / "loop-retry") == await made(RUNS / "loop-retry")


def write(folder: Path, *lines: str, final: str | None = None) -> Path:
    (folder / "events.jsonl").write_text("\n".join(lines))
    if final is not None:
        (folder / "final.json").write_text(final)
    return folder


def event(kind: str, type_: str, uid: str, **body) -> str:
    meta = {"name": "w", "uid": uid}
    return json.dumps({"kind": kind, "type": type_, "at": 1.5, "object": {"metadata": meta, **body}})


@pytest.mark.parametrize(
    ("lines", "final", "said"),
    [(["{"], None, "line 1 of the events is no JSON"), ([], None, "final.json"), ([], "[]", "final.json is no object")],
)
def test_a_folder_that_is_no_recording_says_what_is_missing(tmp_path, lines, final, said):
    with pytest.raises(recording.BadRecording, match=said):
        recording.load(write(tmp_path, *lines, final=final)).fold()


def test_a_missing_folder_is_no_recording(tmp_path):
    with pytest.raises(recording.BadRecording, match="is no folder"):
        recording.load(tmp_path / "nowhere")
    with pytest.raises(recording.BadRecording, match=r"has no events\.jsonl"):
        recording.load(tmp_path)


def test_without_a_workflow_event_the_final_body_counts(tmp_path):
    final = json.dumps({"metadata": {"name": "w", "uid": "u"}, "status": {"phase": "Succeeded"}})
    body, _ = recording.load(write(tmp_path, event("Pod", "ADDED", "p"), final=final)).fold()
    assert argo.header(body).uid == "u"


def test_another_run_of_the_same_name_is_left_out(tmp_path):
    first = event("Workflow", "ADDED", "u1", status={"phase": "Running"})
    gone = event("Workflow", "DELETED", "u1", status={"phase": "Running"})
    again = event("Workflow", "ADDED", "u2", status={"phase": "Succeeded"})
    body, facts = recording.load(write(tmp_path, first, gone, again)).fold()
    assert (argo.header(body).uid, facts.deleted) == ("u1", True)


@pytest.mark.parametrize("versions", [("9", "10"), ("9", ""), ("x", "10"), ("10", "10")])
def test_a_body_that_comes_back_from_before_is_old_news(tmp_path, versions):
    status = ({"phase": "Running"}, {"phase": "Succeeded"})
    old, new = (
        json.loads(event("Workflow", "MODIFIED", "u", status=s)) for s in status
    )  # fmt: skip
    for body, version in zip((old, new), versions, strict=True):
        body["object"]["metadata"]["resourceVersion"] = version
    folder = write(tmp_path, json.dumps(old), json.dumps(new), json.dumps(old))
    body, _ = recording.load(folder).fold()
    assert body["status"] == status[versions == ("9", "10")]


def ref(key: str, path: str | None = None) -> FileRef:
    return FileRef(step=0, artifact="a", path=path, location=S3Location(endpoint=None, bucket="b", key=key))


async def fetched(folder: Path, of: FileRef):
    return await recording.RecordedReader(folder).artifact("ns", of)


async def test_objects_come_from_the_store_and_are_named_as_in_the_pod(tmp_path):
    (tmp_path / "store" / "r").mkdir(parents=True)
    (tmp_path / "store" / "r" / "x.json").write_text('{"a": 1}')
    (tmp_path / "store" / "r" / "d").mkdir()
    (tmp_path / "store" / "r" / "d" / "m.csv").write_text("step,a\n1,2\n")
    assert [b.path for b in (await fetched(tmp_path, ref("r/x.json", "/out/metrics.json"))).blobs] == ["metrics.json"]
    assert [b.path for b in (await fetched(tmp_path, ref("r/d"))).blobs] == ["m.csv"]
    assert (await fetched(tmp_path, ref("r/none"))).present is False


async def test_a_page_is_read_under_its_suffixes_and_another_file_only_if_it_may_hold_a_number(tmp_path):
    (tmp_path / "store" / "pages").mkdir(parents=True)
    (tmp_path / "store" / "pages" / "report.html").write_text("<p>")
    (tmp_path / "store" / "pages" / "plot.png").write_text("picture")
    for key in ("pages/report.html", "pages"):
        page = replace(ref(key), figure="html")
        assert [b.data for b in (await fetched(tmp_path, page)).blobs] == [b"<p>"]
        assert (await fetched(tmp_path, ref(key))).blobs == ()


@pytest.mark.parametrize(
    "key", ["../outside.json", "/../outside.json", "a/../../outside.json", "", "link.json", "a\0b"]
)
async def test_a_key_never_leads_out_of_the_recording(tmp_path, key):
    folder = tmp_path / "rec"
    (folder / "store").mkdir(parents=True)
    (tmp_path / "outside.json").write_text('{"stolen": 1}')
    (folder / "store" / "link.json").symlink_to(tmp_path / "outside.json")
    assert (await fetched(folder, ref(key))).blobs == ()


async def test_a_log_is_the_pods_own_else_the_archived_one(tmp_path):
    (tmp_path / "logs" / "pod").mkdir(parents=True)
    (tmp_path / "logs" / "pod" / "main.log").write_text("live")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "main.log").write_text("archived")
    archived = S3Location(endpoint=None, bucket="b", key="main.log")

    async def log(pod: str | None, archive: object = archived):
        of = LogRef(step=0, pod=pod, pod_uid=None, archived=archive)
        return await recording.RecordedReader(tmp_path).log("ns", of)

    found = [(await log(pod)).blobs[0].data for pod in ("pod", "other", None)]
    assert found == [b"live", b"archived", b"archived"]
    gone = await log("other", Unreadable(reason="X", message="x"))
    assert (gone.present, [n.reason for n in gone.notes]) == (False, ["LogGone"])
