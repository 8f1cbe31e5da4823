"""Properties of the readers of formats: total, exact, bounded."""

import io
import json
import math
import tarfile
import zipfile

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipetrail.formats import Content, archives, metrics, stdout
from pipetrail.formats.points import Limits
from pipetrail.record import number

NAMES = st.sampled_from(["m.json", "m.jsonl", "m.yaml", "m.csv", "m.tsv", "m", "m.txt", "e.tfevents.1", "m.bin", ""])
SOUP = st.text(alphabet='{}[]",:\n -0123456789.eE+stepochlvalu&*!?|>#%\t=;ö\0', max_size=200).map(str.encode)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["step", "epoch", "loss", "metrics", "log_history", "name", "numberValue", ""]), inner
        )
    ),
    max_leaves=20,
)
FINITE = st.integers() | st.floats(allow_nan=False)
KEYS = st.text(min_size=1, max_size=8).filter(lambda k: "." not in k and not k.isspace())
PATHS = st.lists(st.text("abcxyz09_-é ", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=3).map(
    "/".join
)
FILES = st.dictionaries(PATHS, st.binary(max_size=300), min_size=1, max_size=6)


@given(NAMES, st.binary(max_size=300) | SOUP)
@example("m.json", b"\xff\xfe")
@example("m.yaml", b"? [a]\n: 1\n")
@example("m.yaml", b"*a")
def test_any_bytes_give_a_content(name, data):
    assert isinstance(metrics.read(name, data), Content)
    assert isinstance(stdout.read(data), Content)
    assert isinstance(archives.unpack(name, data), archives.Unpacked)


@given(NAMES, JSON)
def test_any_json_gives_a_content(name, value):
    content = metrics.read(name, json.dumps(value).encode())
    assert all(type(p.value) in (int, float) for p in content.points)
    assert isinstance(metrics.read("m.yaml", json.dumps(value, ensure_ascii=False).encode()), Content)


@given(st.dictionaries(KEYS, FINITE))
def test_a_json_object_of_numbers_comes_back_exactly(value):
    content = metrics.read("m.json", json.dumps(value).encode())
    assert {p.key: (type(p.value), p.value) for p in content.points} == {k: (type(v), v) for k, v in value.items()}
    assert content.notes == ()


@given(st.dictionaries(st.text("abcdef_", min_size=2), FINITE, min_size=1))
def test_a_yaml_mapping_of_numbers_comes_back_exactly(value):
    text = "".join(f"{k}: {v!r}\n" for k, v in value.items()).replace("inf", ".inf")
    points = metrics.read("m.yaml", text.encode()).points
    assert {p.key: p.value for p in points} == value


@given(st.lists(st.tuples(st.integers(), FINITE), min_size=1, max_size=20))
def test_a_series_comes_back_from_every_format(rows):
    expected = [("loss", value, step) for step, value in rows]
    lines = "".join(json.dumps({"step": step, "loss": value}) + "\n" for step, value in rows)
    table = "step,loss\n" + "".join(f"{step},{value!r}\n" for step, value in rows)
    printed = "".join(f"2026-11-23T19:42:06.950Z step={step} loss={value!r}\n" for step, value in rows)
    for content in (
        metrics.read("h.jsonl", lines.encode()),
        metrics.read("h.csv", table.encode()),
        metrics.read("h.json", json.dumps([{"step": s, "loss": v} for s, v in rows]).encode()),
        stdout.read(printed.encode()),
    ):
        assert [(p.key, p.value, p.step) for p in content.points] == expected


@given(FINITE)
def test_what_python_prints_is_read_back(value):
    found = number(repr(value))
    assert (type(found), found) == (type(value), value)


@given(st.text(max_size=12))
def test_a_number_is_one_for_python_too(text):
    found = number(text)
    assert found is None or math.isnan(found) or found == float(text)


@given(st.lists(FINITE, max_size=30), st.integers(1, 10))
def test_no_more_points_than_the_limit(series, limit):
    content = metrics.read("m.json", json.dumps({"x": series}).encode(), Limits(points=limit))
    assert [p.value for p in content.points] == series[:limit]
    assert bool(content.notes) == (len(series) > limit)


def files_only(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without names that are both a file and a folder."""
    return {p: d for p, d in files.items() if not any(q.startswith(p + "/") for q in files)}


@settings(deadline=None)
@given(FILES)
def test_a_directory_comes_back_from_tar_and_zip(files):
    files = files_only(files)
    for mode in ("w", "w:gz"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:
            for path, data in files.items():
                info = tarfile.TarInfo(f"root/{path}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        assert dict(archives.unpack("x.tgz", out.getvalue()).blobs) == files
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(f"root/{path}", data)
    assert dict(archives.unpack("x.zip", out.getvalue()).blobs) == files


@settings(deadline=None)
@given(st.data(), FILES)
def test_a_broken_archive_gives_no_more_than_it_held(data, files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    whole = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(
        archives.unpack("x.tgz", bytes(whole[: data.draw(st.integers(0, len(whole)))])), archives.Unpacked
    )
