"""Archives, good and bad."""

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from pipetrail.formats.archives import Limits, Unpacked, unpack

DATA = Path(__file__).parents[1] / "data" / "formats"


def tar(members: dict[str, bytes], *, mode: str = "w:gz", extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for info in extra:
            archive.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def reasons(unpacked: Unpacked) -> list[str]:
    return [note.reason for note in unpacked.notes]


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


def test_what_argo_makes_of_a_directory():
    assert [path for path, _ in unpack("evaldir.tgz", (DATA / "evaldir.tgz").read_bytes()).blobs] == [
        "README.txt", "eval.json", "nested/latency.json",
    ]  # fmt: skip
    assert [path for path, _ in unpack("out.zip", (DATA / "out.zip").read_bytes()).blobs] == [
        "metrics.json",
        "scores.csv",
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_single_file_keeps_its_base_name(mode):
    assert unpack("x.tgz", tar({"metrics.json": b"{}"}, mode=mode)) == Unpacked(blobs=(("metrics.json", b"{}"),))


def test_a_root_folder_is_taken_off_only_if_all_share_it():
    files = {"a/x": b"1", "b/y": b"2"}
    assert dict(unpack("x.tgz", tar(files)).blobs) == dict(unpack("x.zip", zipped(files)).blobs) == files
    assert unpack("x.tgz", tar({"./out/x": b"1", "./out/sub/y": b"2"})).blobs == (("x", b"1"), ("sub/y", b"2"))


def test_a_plain_file_is_itself_under_its_base_name():
    assert unpack("wf/pod/metrics.json", b'{"a": 1}') == Unpacked(blobs=(("metrics.json", b'{"a": 1}'),))
    assert unpack("wf/pod/empty.tgz", b"") == Unpacked(blobs=(("empty.tgz", b""),))


def test_the_first_bytes_tell_and_not_the_suffix():
    assert unpack("metrics.json", tar({"m.json": b"1"})).blobs == (("m.json", b"1"),)
    assert unpack("metrics.json.gz", gzip.compress(b"1")).blobs == (("metrics.json", b"1"),)
    assert unpack("data.tgz", b"not an archive").blobs == (("data.tgz", b"not an archive"),)


def test_a_zip_that_is_a_format_of_its_own_stays_whole():
    data = zipped({"archive/data.pkl": b"1"})
    assert unpack("model.pt", data).blobs == (("model.pt", data),)


def test_files_that_nobody_wants_are_not_kept():
    unpacked = unpack("x.tgz", tar({"o/a.json": b"1", "o/model.bin": b"2"}), wanted=lambda p: p.endswith(".json"))
    assert unpacked == Unpacked(blobs=(("a.json", b"1"),))


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "..\\x", "C:\\x", "\\x"])
def test_a_path_that_leaves_the_root_is_left_out(path):
    for data in (tar({path: b"1", "ok.json": b"2"}), zipped({path: b"1", "ok.json": b"2"})):
        unpacked = unpack("x", data)
        assert (unpacked.blobs, reasons(unpacked)) == ((("ok.json", b"2"),), ["UnsafePath"])


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_devices_and_sparse_files_are_left_out(kind):
    unpacked = unpack("x.tgz", tar({"ok.json": b"2"}, extra=(special("evil.json", kind),)))
    assert unpacked.blobs in ((("ok.json", b"2"),), ())
    assert reasons(unpacked) in (["SpecialFile"], ["ArchiveDamaged"])


def test_a_link_in_a_zip_is_left_out():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link.json")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert reasons(unpack("x.zip", out.getvalue())) == ["SpecialFile"]


def test_an_unknown_compression_and_an_encrypted_member_are_left_out():
    assert reasons(unpack("x.zip", zipped({"a": b"1" * 99}, zipfile.ZIP_LZMA))) == ["UnknownCompression"]
    data = bytearray(zipped({"a": b"1"}))
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    assert reasons(unpack("x.zip", bytes(data))) == ["Encrypted"]


def test_of_a_truncated_tar_counts_what_stands_before():
    whole = tar({"a.json": b"1" * 600, "b.json": b"2" * 100_000}, mode="w")
    unpacked = unpack("x.tar", whole[:5000])
    assert ([path for path, _ in unpacked.blobs], reasons(unpacked)) == (["a.json"], ["ArchiveDamaged"])


@pytest.mark.parametrize("keep", [3, 11, 40, 200])
def test_truncated_archives_are_noted(keep):
    for data in (tar({"a.json": bytes(range(256)) * 9}), zipped({"a.json": bytes(range(256)) * 9})):
        unpacked = unpack("x.tgz", data[:keep])
        assert reasons(unpacked) == ["ArchiveDamaged"] or unpacked.blobs == (("x.tgz", data[:keep]),)


def test_a_damaged_member_of_a_zip_leaves_the_others():
    data = bytearray(zipped({"a.json": b"1" * 10, "b.json": b"2" * 10}, zipfile.ZIP_STORED))
    data[data.index(b"1111")] ^= 0xFF
    unpacked = unpack("x.zip", bytes(data))
    assert (unpacked.blobs, reasons(unpacked)) == ((("b.json", b"2" * 10),), ["ArchiveDamaged"])


def test_too_many_members_are_cut():
    files = {f"{i}.json": b"1" for i in range(20)}
    for data in (tar(files), zipped(files)):
        unpacked = unpack("x", data, Limits(members=7))
        assert (len(unpacked.blobs), reasons(unpacked)) == (7, ["TooManyFiles"])


def test_a_zip_with_a_directory_of_a_million_names_is_refused():
    assert reasons(unpack("x.zip", b"PK\x03\x04" + b"PK\x01\x02" * 1_000_000)) == ["TooManyFiles"]


def bomb(size: int) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as stream:
        info = tarfile.TarInfo("zeros.json")
        info.size = size
        stream.write(info.tobuf())
        for _ in range(size >> 20):
            stream.write(bytes(1 << 20))
    return out.getvalue()


@pytest.mark.parametrize(
    "made",
    [
        lambda: bomb(512 << 20),
        lambda: gzip.compress(bytes(256 << 20), 1),
        lambda: zipped({f"{i}.json": bytes(30 << 20) for i in range(8)}),
    ],
    ids=["tar", "gzip", "zip"],
)
def test_bombs_take_bounded_memory(made):
    data = made()
    tracemalloc.start()
    try:
        unpacked = unpack("x.tgz", data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(reasons(unpacked)) & {"TooLarge", "ArchiveBomb"}
    assert peak < 200 << 20


def test_a_file_that_is_too_big_leaves_the_others():
    unpacked = unpack("x.tgz", tar({"big.json": bytes(5000), "ok.json": b"1"}), Limits(member_bytes=4000))
    assert (unpacked.blobs, reasons(unpacked)) == ((("ok.json", b"1"),), ["TooLarge"])


def test_the_ratio_is_limited():
    limits = Limits(ratio=10, ratio_from_bytes=1 << 16)
    assert reasons(unpack("x.tgz", tar({"a.json": bytes(1 << 20)}), limits)) == ["ArchiveBomb"]
