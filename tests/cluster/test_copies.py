"""The outbox's copies as Secrets on a real API server, and in a folder and a bucket: kept, found, read, torn, swept."""

import asyncio
import base64
import datetime as dt
import json
import os
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cluster.fixtures import Cluster

from pipetrail import api
from pipetrail.delivery import outbox
from pipetrail.delivery.copies import SECRET_BYTES, Copies
from pipetrail.delivery.outbox import Copy, Cover, Torn
from pipetrail.delivery.secret_chunks import COVER, LABEL, NotKept
from pipetrail.kube import Kube
from pipetrail.readers.overflow import OverflowStore
from pipetrail.record import Key, Outcome, Record

pytestmark = pytest.mark.api

SMALL = 200  # bytes of a chunk, so that a small copy has several
MUCH = 1 << 20


def copy_of(uid: str, text: str = "") -> Copy:
    record = Record(
        key=Key(cluster="c", uid=uid), source="argo", name=f"run-{uid}", namespace="team", pipeline="p",
        outcome=Outcome(status="succeeded"), params={"p": text or secrets.token_hex(400)},
    )  # fmt: skip
    run = api.RunRef(source="argo", name=record.name, uid=uid, key=record.key.run)
    target = api.TargetRef(name="mlflow", namespace="team")
    return Copy(spec=api.TrackedRunSpec(run=run, target=target, policy=api.Policy()), record=record)


def cover_of(copies: Copies, copy: Copy, data: bytes) -> Cover:
    return Cover(
        namespace="team", run=copy.record.name, uid=copy.record.key.uid, target=copy.spec.target,
        digest=outbox.digest(data), bytes=len(data), chunks=copies.chunks(data),
        kept_at=dt.datetime.now(dt.UTC).isoformat(),
    )  # fmt: skip


def size_of(copy: Copy) -> int:
    """What a copy takes in etcd."""
    data = outbox.pack(copy)
    return len(data) + len(outbox.cut(data, SMALL)) * SECRET_BYTES


async def keep(copies: Copies, copy: Copy) -> bool:
    data = outbox.pack(copy)
    return await copies.keep(cover_of(copies, copy, data), data)


def of(copies: Copies, copy: Copy) -> Any:
    kept = copies.of(("team", copy.record.key.uid), copy.spec.target)
    assert kept is not None
    return kept


async def lying(kube: Kube, namespace: str) -> list[Any]:
    found = await kube.get(f"/api/v1/namespaces/{namespace}/secrets", labelSelector=LABEL)
    return list(found["items"])


def made(kube: Kube, namespace: str, most_bytes: int = MUCH, **more: Any) -> Copies:
    return Copies(kube, namespace, most_bytes=most_bytes, chunk_bytes=SMALL, **more)


async def test_what_is_kept_is_found_by_the_next_process_and_read_back_to_the_byte(kube: Kube, namespace: str) -> None:
    first, mine = made(kube, namespace), [copy_of(f"u{n}") for n in range(3)]
    assert [await keep(first, copy) for copy in mine] == [True, True, True]
    assert await keep(first, mine[0]) is False  # it is there
    second = made(kube, namespace)
    await second.load()
    assert [await second.read(of(second, copy)) for copy in mine] == mine
    assert {kept.inherited for kept in second.all()} == {True}
    assert second.used_bytes("Secrets") == first.used_bytes("Secrets") == sum(size_of(c) for c in mine)
    lies = sum(len(json.dumps(secret)) - len(secret["data"]["chunk"]) // 4 for secret in await lying(kube, namespace))
    assert 0.7 * lies < second.used_bytes("Secrets") < 1.5 * lies  # as the API server itself would count it
    for kept in list(second.all()):
        await second.remove(kept)
    assert await lying(kube, namespace) == []
    assert (second.used_bytes("Secrets"), second.count("Secrets")) == (0, 0)


async def test_a_newer_copy_takes_the_place_of_an_older_one_also_after_a_kill_between_them(
    kube: Kube, namespace: str
) -> None:
    copies, old, new = made(kube, namespace), copy_of("u", "old"), copy_of("u", "new")
    await keep(copies, old)
    await keep(made(kube, namespace), new)  # by one who knew of no other, and so left it
    survivor = made(kube, namespace)
    await survivor.load()
    assert await survivor.read(of(survivor, new)) == new
    assert {s["metadata"]["labels"][LABEL] for s in await lying(kube, namespace)} == {of(survivor, new).cover.id}
    assert len(await lying(kube, namespace)) == of(survivor, new).cover.chunks


async def test_of_an_older_whole_copy_and_a_newer_one_that_was_cut_short_the_whole_one_counts(
    kube: Kube, namespace: str
) -> None:
    old, new = copy_of("u"), copy_of("u")
    await keep(made(kube, namespace), old)
    await keep(made(kube, namespace), new)
    digest = outbox.digest(outbox.pack(new))[:12]
    last = max(s["metadata"]["name"] for s in await lying(kube, namespace) if digest in s["metadata"]["name"])
    await kube.delete(f"/api/v1/namespaces/{namespace}/secrets/{last}")
    survivor = made(kube, namespace)
    await survivor.load()
    assert await survivor.read(of(survivor, old)) == old
    assert len(await lying(kube, namespace)) == of(survivor, old).cover.chunks


@pytest.mark.parametrize("harm", ["no first chunk", "no last chunk", "one bit", "no data", "not base64", "another run"])
async def test_a_copy_that_is_not_what_was_written_is_torn(kube: Kube, namespace: str, harm: str) -> None:
    copy, path = copy_of("u"), f"/api/v1/namespaces/{namespace}/secrets"
    copies = made(kube, namespace)
    await keep(copies, copy)
    there = sorted(await lying(kube, namespace), key=lambda s: s["metadata"]["name"])
    victim = there[0 if harm == "no first chunk" else -1]
    await kube.delete(f"{path}/{victim['metadata']['name']}")
    meta = {key: victim["metadata"][key] for key in ("name", "labels", "annotations")}
    data = base64.b64decode(victim["data"]["chunk"])
    forged: dict[str, Any] = {
        "one bit": {"data": {"chunk": base64.b64encode(bytes([data[0] ^ 1]) + data[1:]).decode()}},
        "no data": {"data": {}},
        "not base64": {"stringData": {"other": "text"}},
        "another run": {"data": {"chunk": base64.b64encode(outbox.pack(copy_of("v"))).decode()}},
    }
    if harm in forged:
        await kube.post(path, {"metadata": meta, "type": victim["type"], **forged[harm]})
    survivor = made(kube, namespace)
    await survivor.load()
    kept = of(survivor, copy)
    assert (kept.whole, kept.half_gone) == (harm in forged, harm == "no first chunk")
    with pytest.raises(Torn):
        await survivor.read(kept)
    await survivor.remove(kept)
    assert await lying(kube, namespace) == []


async def test_a_cover_that_nobody_can_read_is_garbage_under_the_id_on_its_label(kube: Kube, namespace: str) -> None:
    id_ = outbox.copy_id("team", "u", api.TargetRef(name="mlflow", namespace="team"))
    for number, cover in enumerate(("", "{", '{"format":"pipetrail.outbox/v9"}')):
        meta = {"name": f"outbox-{number}", "labels": {LABEL: id_}, "annotations": {COVER: cover}}
        await kube.post(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": meta})
    copies = made(kube, namespace)
    await copies.load()
    assert (list(copies.all()), list(copies.garbage)) == ([], [id_])
    await copies.discard(id_)
    assert await lying(kube, namespace) == []


async def test_the_share_of_etcd_is_counted_across_restarts_and_what_is_above_it_is_refused(
    kube: Kube, namespace: str
) -> None:
    copy, more = copy_of("u"), copy_of("v")
    size = size_of(copy)
    await keep(made(kube, namespace, size), copy)
    next_one = made(kube, namespace, 2 * size + 50, ledger_bytes=lambda: 100)
    await next_one.load()
    with pytest.raises(NotKept) as refusal:
        await keep(next_one, more)
    assert refusal.value.reason == "OutboxFull"
    assert "--outbox-max" in refusal.value.message
    await next_one.remove(of(next_one, copy))
    assert await keep(next_one, more) is True  # what was settled made room


async def test_a_namespace_that_is_not_there_is_named(kube: Kube, namespace: str) -> None:
    copies = made(kube, f"{namespace}-none")
    await copies.load()
    with pytest.raises(NotKept) as refusal:
        await keep(copies, copy_of("u"))
    assert (refusal.value.reason, f"{namespace}-none" in refusal.value.message) == ("OutboxMissing", True)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a place beside etcd; a bucket's credentials stand in the environment, as an operator's do."""
    if request.param == "file":
        return (tmp_path / "outbox").as_uri()
    s3 = cluster.env.get("s3")
    if s3 is None:
        pytest.skip("this cluster has no S3 store of ours")
    for name, value in (
        ("AWS_ENDPOINT_URL", s3["endpoint"]), ("AWS_ACCESS_KEY_ID", s3["accessKey"]),
        ("AWS_SECRET_ACCESS_KEY", s3["secretKey"]), ("AWS_REGION", s3["region"]),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return f"s3://{s3['bucket']}/outbox-{secrets.token_hex(4)}"


async def test_what_is_above_the_share_goes_to_the_store_and_comes_back_from_it(
    kube: Kube, namespace: str, store: str
) -> None:
    mine = [copy_of(f"u{n}") for n in range(3)]
    for copy in mine:
        await keep(made(kube, namespace, 0, store=OverflowStore(store)), copy)
    assert await lying(kube, namespace) == []
    copies = made(kube, namespace, 0, store=OverflowStore(store))
    await copies.load()
    assert {(kept.place, kept.inherited) for kept in copies.all()} == {("Store", True)}
    assert [await copies.read(of(copies, copy)) for copy in mine] == mine
    for kept in list(copies.all()):
        await copies.remove(kept)
    await copies.load()
    assert list(copies.all()) == []


async def test_a_copy_in_the_store_that_was_changed_is_torn(kube: Kube, namespace: str, tmp_path: Path) -> None:
    copy = copy_of("u")
    await keep(made(kube, namespace, 0, store=OverflowStore(tmp_path.as_uri())), copy)
    (file,) = (tmp_path / name for name in os.listdir(tmp_path))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (tmp_path / f"{'0' * 20}.{'1' * 12}.copy").write_bytes(b"nonsense")
    copies = made(kube, namespace, 0, store=OverflowStore(tmp_path.as_uri()))
    await copies.load()
    with pytest.raises(Torn):
        await copies.read(of(copies, copy))
    assert list(copies.garbage) == ["0" * 20]
    await copies.discard("0" * 20)
    assert os.listdir(tmp_path) == [file.name]


async def test_a_store_that_does_not_take_it_is_named(
    kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "canary-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    copies = made(kube, namespace, 0, store=OverflowStore("s3://bucket/prefix"))
    with pytest.raises(NotKept) as refusal:
        await keep(copies, copy_of("u"))
    assert refusal.value.reason == "OutboxStoreFailed"
    assert "canary" not in refusal.value.message
    await copies.load()
    assert copies.complete is False  # what may lie there is not given up


async def test_a_look_while_a_copy_is_written_or_removed_changes_nothing_of_it(kube: Kube, namespace: str) -> None:
    copies, mine = made(kube, namespace), [copy_of(f"u{n}") for n in range(20)]

    async def looks() -> None:
        while True:
            await copies.load()

    looking = asyncio.create_task(looks())
    try:
        for copy in mine:
            assert await keep(copies, copy) is True
        assert [await copies.read(of(copies, copy)) for copy in mine] == mine
        for copy in mine[:10]:
            await copies.remove(of(copies, copy))
        assert not looking.done()
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    assert [await copies.read(of(copies, copy)) for copy in mine[10:]] == mine[10:]
    assert [kept.inherited for kept in copies.all()] == [False] * 10
    assert copies.used_bytes("Secrets") == sum(size_of(copy) for copy in mine[10:])


@pytest.mark.parametrize("address", ["", "s3://", "file://host/x", "file:///", "https://x/y", "s3://key@bucket/x"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        OverflowStore(address)


def test_a_copy_is_small() -> None:
    assert len(outbox.pack(copy_of("u", "x"))) < 600
    assert msgspec.json.decode(outbox.to_text(cover_of(Copies(None, "n", most_bytes=1), copy_of("u"), b"x")))  # type: ignore[arg-type]
