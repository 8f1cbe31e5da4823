import asyncio

import pytest
from msgspec.structs import replace
from tests.unit.argo_cases import at, node, only, pod, read, workflow

from pipetrail import api, capture
from pipetrail.capture import FileCache, Limits, Wants
from pipetrail.formats import Note, tail
from pipetrail.readers import Blob, Fetched
from pipetrail.record import FromFile, FromParameter, FromStdout, Html, Markdown, Unread
from pipetrail.sources import FileRef, LogRef, S3Location

ALL = Wants(stdout=True, logs="Always")


class Shelf:
    """A reader that has what it was given, and counts what it is asked for."""

    def __init__(self, *, files: dict[str, Fetched | str] | None = None, log: str | Fetched = "", slow_s: float = 0.0):
        self.files = files or {}
        self.text = log
        self.slow_s = slow_s
        self.asked: list[str] = []

    async def artifact(self, namespace: str, ref: FileRef) -> Fetched:
        self.asked.append(f"{namespace}/{ref.artifact}")
        await asyncio.sleep(self.slow_s)
        found = self.files.get(ref.artifact, Fetched(present=False))
        if isinstance(found, Fetched):
            return found
        name = (ref.path or "").rpartition("/")[2]
        return Fetched(blobs=(Blob(path=name, data=found.encode()),), size=len(found), digest="sha256:x")

    async def log(self, namespace: str, ref: LogRef, *, tail_lines: int | None = None) -> Fetched:
        self.asked.append(f"{namespace}/{ref.pod}:{tail_lines}")
        await asyncio.sleep(self.slow_s)
        if isinstance(self.text, Fetched):
            return self.text
        return Fetched(blobs=(Blob(path="main.log", data=self.text.encode()),))


def artifact(name: str, *, packed: bool = False) -> dict:
    plain = {} if packed else {"archive": {"none": {}}}
    suffix = ".tgz" if packed else ".json"
    return {"name": name, "path": f"/out/{name}.json", "s3": {"key": f"r/{name}{suffix}"}} | plain


def reading(*names: str, phase: str = "Succeeded", **more):
    outputs = {"artifacts": [artifact(n) for n in names]}
    ended = "Succeeded" if phase == "Succeeded" else "Failed"
    return read(workflow(node(".a", phase=phase, outputs=outputs), **more), pod(".a", ended))


async def captured(of, shelf, wants=ALL, cache=None, limits=capture.DEFAULT):
    return await capture.capture(of, shelf, wants, cache, limits)


async def test_numbers_in_files_are_points_at_the_steps_end():
    record = await captured(reading("metrics"), Shelf(files={"metrics": '{"acc": 0.5, "n": 3}'}))
    assert [(p.key, p.value, p.time, p.source) for p in record.steps[0].points] == [
        ("acc", 0.5, at(30), FromFile(artifact="metrics", file="metrics.json")),
        ("n", 3, at(30), FromFile(artifact="metrics", file="metrics.json")),
    ]
    (known,) = record.steps[0].artifacts
    assert (known.present, known.size, known.digest) == (True, 20, "sha256:x")


async def test_printed_numbers_have_the_time_of_their_line_else_the_steps_end():
    shelf = Shelf(log="2026-11-23T10:00:09.5Z epoch=1 loss=0.5\nepoch=2 loss=0.25\n")
    points = (await captured(reading(), shelf)).steps[0].points
    assert [(p.step, p.value, p.source) for p in points] == [(1, 0.5, FromStdout()), (2, 0.25, FromStdout())]
    assert [(p.time - at(0)).total_seconds() for p in points] == [9.5, 30.0]


async def test_stdout_is_read_only_if_it_is_wanted():
    shelf = Shelf(log="epoch=1 loss=0.5\n")
    assert (await captured(reading(), shelf, Wants(logs="Never"))).steps[0].points == ()
    assert shelf.asked == []


LOG = """2026-11-23T10:00:01Z time="2026-11-23T10:00:01Z" level=info msg="capturing logs" argo=true
2026-11-23T10:00:02Z epoch=1 loss=0.5
2026-11-23T10:00:03Z time=x level=info msg="from the program itself"
2026-11-23T10:00:04Z ValueError: no such depth
2026-11-23T10:00:05Z time="2026-11-23T10:00:05Z" level=info msg="sub-process exited" argo=true error="<nil>"
2026-11-23T10:00:05Z time="2026-11-23T10:00:05Z" level=info msg="Taring /tmp/out"
2026-11-23T10:00:05Z time=2026-11-23T10:00:05Z level=INFO msg=tarring argo=true source=/tmp/metrics.json
"""
TAIL = 'epoch=1 loss=0.5\ntime=x level=info msg="from the program itself"\nValueError: no such depth'


@pytest.mark.parametrize(
    ("logs", "phase", "want"),
    [
        ("OnFailure", "Failed", TAIL), ("OnFailure", "Succeeded", None), ("Always", "Succeeded", TAIL),
        ("Never", "Failed", None),
    ],
)  # fmt: skip
async def test_the_last_lines_are_the_programs_own(logs, phase, want):
    record = await captured(reading(phase=phase), Shelf(log=LOG), Wants(logs=logs))
    assert record.steps[0].log_tail == want


def test_a_tail_is_twenty_lines_of_bounded_length():
    found = tail.read("\n".join(f"{i} " + "x" * 5000 for i in range(50)).encode())
    assert [line[:3] for line in found.splitlines()] == [f"{i} " for i in range(30, 50)]
    assert max(map(len, found.splitlines())) == tail.MAX_LINE_CHARS


async def test_what_was_fetched_for_a_live_run_is_not_fetched_again():
    cache, shelf = FileCache(), Shelf(files={"a": '{"x": 1}', "b": '{"y": 2}'})
    first = await captured(reading("a"), shelf, cache=cache)
    again = await captured(reading("a", "b"), shelf, cache=cache)
    assert first.steps[0].points == again.steps[0].points[:1]
    assert sorted(a for a in shelf.asked if ":" not in a) == ["team-a/a", "team-a/b"]


async def test_another_pods_artifact_under_the_same_key_is_fetched_anew():
    cache, shelf = FileCache(), Shelf(files={"a": '{"x": 1}'})
    outputs = {"artifacts": [artifact("a")]}
    body = workflow(node(".a", outputs=outputs))
    await captured(read(body, pod(".a", uid="first")), shelf, cache=cache)
    await captured(read(body, pod(".a", uid="second")), shelf, cache=cache)
    assert shelf.asked.count("team-a/a") == 2


async def test_what_a_store_could_not_give_now_is_asked_again_and_partial():
    refused = Fetched(notes=(Note(reason="StoreForbidden", message="grant get"),), present=None, again=True)
    cache, shelf = FileCache(), Shelf(files={"a": refused})
    record = await captured(reading("a"), shelf, cache=cache)
    assert [(p.reason, p.step) for p in record.partial] == [("StoreForbidden", "a")]
    assert (cache.unread.steps, record.steps[0].artifacts[0].present) == ({0}, None)
    shelf.files["a"] = '{"x": 1}'
    mended = await captured(reading("a"), shelf, cache=cache)
    assert ([p.value for p in mended.steps[0].points], mended.partial, cache.unread.nothing) == ([1], (), True)


async def test_an_absent_artifact_is_absent_and_the_other_files_count():
    record = await captured(reading("gone", "there"), Shelf(files={"there": '{"x": 1}'}))
    assert [a.present for a in record.steps[0].artifacts] == [False, True]
    assert [p.key for p in record.steps[0].points] == ["x"]


async def test_a_file_that_is_broken_is_partial_and_named():
    record = await captured(reading("a", "b"), Shelf(files={"a": "{", "b": '{"x": 1}'}))
    (partial,) = record.partial
    assert (partial.reason, partial.step, partial.message.startswith("artifact a: a.json:")) == (
        "Unreadable",
        "a",
        True,
    )
    assert len(record.steps[0].points) == 1


async def test_a_foreign_store_is_partial_and_never_asked():
    foreign = artifact("a") | {"s3": {"key": "k", "endpoint": "elsewhere:9000"}}
    shelf = Shelf()
    record = await captured(read(workflow(node(".a", outputs={"artifacts": [foreign]}))), shelf)
    assert [p.reason for p in record.partial] == ["ForeignStore"]
    assert shelf.asked == []


@pytest.mark.parametrize(
    ("wants", "asked"),
    [
        (Wants(logs="Never"), ["data", "m"]),
        (Wants(logs="Never", exclude=("m/*",)), ["data"]),
        (Wants(logs="Never", include=("model/*",)), ["data", "m", "model"]),
        (Wants(logs="Never", include=("m/*",), exclude=("*",)), []),
        (Wants(logs="Never", files=False), []),
    ],
)
async def test_what_nothing_could_use_is_not_fetched(wants, asked):
    model = {"name": "model", "path": "/m/model.pt", "s3": {"key": "r/model.pt"}, "archive": {"none": {}}}
    outputs = {"artifacts": [artifact("m"), model, artifact("data", packed=True)]}
    shelf = Shelf()
    await captured(read(workflow(node(".a", outputs=outputs))), shelf, wants)
    assert sorted(a.partition("/")[2] for a in shelf.asked) == asked


async def test_a_run_has_bounds_and_what_is_beyond_them_is_partial():
    files = {str(i): '{"x": 1, "y": 2}' for i in range(5)}
    few = await captured(reading(*files), Shelf(files=files), limits=Limits(fetches=2))
    assert (len(few.steps[0].points), {p.reason for p in few.partial}) == (4, {"TooMuch"})
    short = await captured(reading(*files), Shelf(files=files), limits=Limits(points=3))
    assert (len(short.steps[0].points), [p.reason for p in short.partial]) == (3, ["TooManyPoints"])


async def test_what_takes_too_long_is_partial_and_the_record_still_comes():
    cache = FileCache()
    record = await captured(
        reading("a"), Shelf(files={"a": "{}"}, slow_s=5.0), cache=cache, limits=Limits(seconds=0.05)
    )
    assert ([p.reason for p in record.partial], cache.unread.steps) == (["CaptureTimeout"], {0})


def test_a_cache_is_bounded():
    cache = FileCache()
    for i in range(FileCache.MAX + 5):
        cache.put(str(i).encode(), capture.cache.Got())
    assert (cache.get(b"4"), cache.get(b"5")) == (None, capture.cache.Got())


def test_a_policy_says_what_is_wanted():
    policy = api.Policy(
        capture=api.Capture(
            stdout="On", logs="Never", files=api.Files(include=("*.metrics.json",), exclude=("config/*",))
        )
    )
    assert capture.wants(policy) == Wants(stdout=True, logs="Never", include=("*.metrics.json",), exclude=("config/*",))
    assert capture.wants(api.Policy(capture=api.Capture(metrics="None"))) == Wants(files=False)


async def test_a_step_without_files_or_logs_is_as_it_was():
    body = workflow(node(".s", "Suspend"))
    assert (await captured(read(body), Shelf())).steps == (only(body),)


async def test_pages_are_figures_unless_the_target_wants_none_of_them():
    of = reading()
    page = FileRef(
        step=0, artifact="md", path=None, location=S3Location(endpoint=None, bucket="b", key="k"), figure="markdown"
    )
    of = replace(of, files=(page,))
    shelf = Shelf(files={"md": "# Report"})
    assert (await captured(of, shelf)).steps[0].figures == (Markdown(text="# Report", name="md"),)
    assert (await captured(of, Shelf(), Wants(figures=False))).steps[0].figures == ()
    assert (await captured(of, Shelf(files={"md": "x" * 2_000_000}))).partial[0].reason == "TooLarge"


VIEWS = """{"version": 1, "outputs": [
  {"type": "markdown", "storage": "inline", "source": "# In the file"},
  {"type": "web-app", "storage": "gcs", "source": "minio://reports/a/page.html"},
  {"type": "table", "source": "https://internal.example/t.csv"},
  {"type": "table", "source": "gs://b/t.csv"},
  {"type": "tensorboard", "source": "s3://b/logs"}
]}"""


class Views(Shelf):
    """Has a list of figures under one key, and a page where that says, unless `page` stands for it."""

    page: Fetched | None = None

    async def artifact(self, namespace: str, ref: FileRef) -> Fetched:
        place = ref.location
        assert isinstance(place, S3Location)
        self.asked.append(f"{place.endpoint}/{place.bucket}/{place.key}")
        if place.key == "a/page.html" and self.page is not None:
            return self.page
        text = {"ui.tgz": VIEWS, "a/page.html": "<h1>There</h1>"}.get(place.key, "")
        return Fetched(blobs=(Blob(path="x", data=text.encode()),)) if text else Fetched(present=False)


async def test_figures_that_a_file_lists_are_fetched_from_the_runs_own_store_alone():
    place = S3Location(endpoint="s3.example", bucket="b", key="ui.tgz")
    listed = FileRef(step=0, artifact="mlpipeline-ui-metadata", path=None, location=place, figure="views")
    of, shelf = replace(reading(), files=(listed,), logs=()), Views()
    record = await captured(of, shelf)
    assert record.steps[0].figures == (Markdown(text="# In the file"), Html(text="<h1>There</h1>"))
    assert record.steps[0].points == ()
    assert shelf.asked == ["s3.example/b/ui.tgz", "s3.example/reports/a/page.html"]
    assert [p.reason for p in record.partial] == ["ForeignStore", "ForeignStore", "ViewNotRead"]


async def test_a_listed_figure_that_can_not_be_had_now_is_asked_for_again():
    place = S3Location(endpoint="s3.example", bucket="b", key="ui.tgz")
    listed = FileRef(step=0, artifact="mlpipeline-ui-metadata", path=None, location=place, figure="views")
    of, shelf, cache = replace(reading(), files=(listed,), logs=()), Views(), FileCache()
    shelf.page = Fetched(present=None, notes=(Note(reason="StoreUnreachable", message="away"),), again=True)
    record = await captured(of, shelf, cache=cache)
    assert (cache.unread.steps, record.steps[0].figures) == ({0}, (Markdown(text="# In the file"),))
    shelf.page = None
    record = await captured(of, shelf, cache=cache)
    assert (cache.unread.nothing, len(record.steps[0].figures)) == (True, 2)


LAUNCHED = """I1123 20:21:06.346828 15 launcher_v2.go:1230] ExecutorOutput: {
  "parameterValues": {
    "acc": 0.5
  }
}
epoch=1 loss=0.25
"""


async def test_a_launchers_log_is_read_whole_and_once_also_if_the_store_comes_back():
    of, cache, shelf = reading(), FileCache(), Shelf(log=LAUNCHED)
    (ref,) = of.logs
    alone = replace(of, logs=(replace(ref, launcher="alone"),))
    record = await captured(alone, shelf, Wants(logs="Never"), cache)
    assert [(p.key, p.value, p.source) for p in record.steps[0].points] == [
        ("acc", 0.5, FromParameter(parameter="acc"))
    ]
    assert [p.reason for p in record.partial] == ["Unchecked"]
    await captured(replace(of, logs=(replace(ref, launcher="checked"),)), shelf, Wants(logs="Never"), cache)
    assert [asked.rpartition(":")[2] for asked in shelf.asked] == ["None"]


async def test_a_launchers_log_is_not_fetched_for_a_target_that_takes_no_metrics():
    of, shelf = reading(), Shelf(log=LAUNCHED)
    ref = replace(of.logs[0], launcher="checked")
    await captured(replace(of, logs=(ref,)), shelf, Wants(files=False, logs="Never"))
    assert shelf.asked == []


async def test_a_reading_that_may_tell_more_later_is_made_again():
    cache = FileCache()
    await captured(replace(reading(), again=True), Shelf(), cache=cache)
    assert cache.unread == Unread(structure=True)
