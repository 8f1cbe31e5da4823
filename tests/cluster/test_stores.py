"""Artifacts in a real S3 store (versitygw), with keys from real Secrets."""

import asyncio
import gzip
import hashlib
import io
import secrets
import tarfile
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import obstore
import pytest
import pytest_asyncio
from obstore.store import S3Store
from tests.cluster.fixtures import Cluster, Kubectl, connect

from pipetrail.kube import Kube
from pipetrail.readers import Blob, Fetched
from pipetrail.readers.live import LiveReader
from pipetrail.readers.stores import Credentials, Limits, Stores
from pipetrail.sources import FileRef, LogRef, S3Location, SecretKey

pytestmark = pytest.mark.api


class Store(NamedTuple):
    """A place of this module's own in the cluster's store; `folder` is that place on disk."""

    endpoint: str
    bucket: str
    prefix: str
    folder: Path
    client: Any
    keys: Credentials

    def put(self, key: str, data: bytes) -> None:
        obstore.put(self.client, self.prefix + key, data)

    def location(self, key: str, **changed: Any) -> S3Location:
        fields: dict[str, Any] = {
            "endpoint": self.endpoint, "bucket": self.bucket, "key": self.prefix + key, "insecure": True,
            "access_key": SecretKey(name="store", key="accesskey"),
            "secret_key": SecretKey(name="store", key="secretkey"),
        }  # fmt: skip
        return S3Location(**(fields | changed))


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> Iterator[Store]:
    if not cluster.ours:
        pytest.skip("the store of a user's own cluster is not ours to fill")
    s3 = cluster.env["s3"]
    access, secret = s3["accessKey"], s3["secretKey"]
    keys: Any = {"access_key_id": access, "secret_access_key": secret, "token": None, "expires_at": None}
    config: Any = {"endpoint": s3["endpoint"], "aws_endpoint_url_s3": s3["endpoint"], "region": s3["region"]}
    client = S3Store(
        s3["bucket"], config=config,
        client_options={"allow_http": True}, credential_provider=lambda: keys,
    )  # fmt: skip
    prefix = f"pt-{secrets.token_hex(5)}/"
    bucket = Path(cluster.env["bin"]).parent / "s3" / "buckets" / s3["bucket"]
    made = Store(
        s3["endpoint"].removeprefix("http://"), s3["bucket"], prefix, bucket / prefix, client,
        Credentials(access_key=access, secret_key=secret),
    )  # fmt: skip
    made.put("started", b"")
    yield made
    for batch in obstore.list(client, prefix=prefix):
        obstore.delete(client, [meta["path"] for meta in batch])


@pytest.fixture
def secret(kubectl: Kubectl, namespace: str, store: Store) -> str:
    """The namespace, with the store's keys in a Secret."""
    keys = [f"--from-literal=accesskey={store.keys.access_key}", f"--from-literal=secretkey={store.keys.secret_key}"]
    kubectl("create", "secret", "generic", "store", "-n", namespace, *keys)
    return namespace


@pytest_asyncio.fixture
async def reader(kube: Kube) -> AsyncIterator[LiveReader]:
    made = LiveReader(kube)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def stores() -> AsyncIterator[Stores]:
    made = Stores()
    yield made
    await made.close()


def file(location: S3Location, path: str | None = None) -> FileRef:
    return FileRef(step=0, artifact="metrics", path=path, location=location)


def reasons(fetched: Fetched) -> list[str]:
    assert "CANARY" not in repr(fetched)
    return [note.reason for note in fetched.notes]


def tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"out/{name}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    "key",
    ["wf/p/metrics.json", "wf(0:a,b)/naïve ☕ 1%/metrics.json", "a#b?c&d=e+f/metrics.json", "~_-.!*'()/metrics.json"],
)
async def test_a_file_is_read_with_keys_from_a_secret(store, reader, secret, key):
    store.put(key, b'{"acc": 0.5}')
    fetched = await reader.artifact(secret, file(store.location(key), "/tmp/metrics.json"))
    assert (fetched.blobs, reasons(fetched)) == ((Blob(path="metrics.json", data=b'{"acc": 0.5}'),), [])
    assert (fetched.present, fetched.size) == (True, 12)
    assert fetched.digest == f"sha256:{hashlib.sha256(fetched.blobs[0].data).hexdigest()}"


async def test_archives_are_taken_apart(store, stores):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("artifact/metrics.json", b"1")
        archive.writestr("artifact/sub/scores.csv", b"2")
    store.put("wf/out.zip", out.getvalue())
    store.put("wf/out.tgz", tar(a=b"1", b=b"2"))
    store.put("wf/m.json.gz", gzip.compress(b"3"))
    zipped = await stores.fetch(store.location("wf/out.zip"), store.keys)
    assert zipped.blobs == (Blob(path="metrics.json", data=b"1"), Blob(path="sub/scores.csv", data=b"2"))
    tarred = await stores.fetch(store.location("wf/out.tgz"), store.keys)
    assert tarred.blobs == (Blob(path="a.json", data=b"1"), Blob(path="b.json", data=b"2"))
    assert (await stores.fetch(store.location("wf/m.json.gz"), store.keys)).blobs == (Blob(path="m.json", data=b"3"),)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_key_that_is_a_directory_is_read_file_by_file(store, stores, slash):
    for name, data in {"a.json": b"1", "sub/b.csv": b"2", "model.bin": b"3", "sub/deep/c": b"4"}.items():
        store.put(f"wf/dir/{name}", data)
    store.put("wf/dir2/other.json", b"5")
    fetched = await stores.fetch(store.location(f"wf/dir{slash}"), store.keys)
    found = {blob.path: blob.data for blob in fetched.blobs}
    assert (found, reasons(fetched), fetched.size) == ({"a.json": b"1", "sub/b.csv": b"2", "sub/deep/c": b"4"}, [], 4)


async def test_a_directory_of_more_than_a_page_with_odd_names_is_read_whole(store, stores):
    names = [f"m {n:03} +&é%.metrics.json" for n in range(205)]
    for name in names:
        store.put(f"pages/{name}", b'{"acc": 1}')
    fetched = await stores.fetch(store.location("pages"), store.keys)
    assert ([blob.path for blob in fetched.blobs], fetched.notes) == (sorted(names), ())


async def test_a_directory_is_bounded(store):
    for i in range(12):
        store.put(f"wf/many/{i:02}.json", b"x" * 10)
    stores = Stores(limits=Limits(prefix_objects=5, prefix_bytes=35))
    fetched = await stores.fetch(store.location("wf/many"), store.keys)
    await stores.close()
    assert ([b.path for b in fetched.blobs], sorted(reasons(fetched))) == (
        ["00.json", "01.json", "02.json"], ["TooLarge", "TooManyFiles"],
    )  # fmt: skip


async def test_what_is_not_there_is_absent_without_a_note(store, stores):
    fetched = await stores.fetch(store.location("wf/nothing.json"), store.keys)
    assert (fetched, reasons(fetched)) == (Fetched(present=False), [])


async def test_a_bucket_that_is_not_there_is_named(store, stores):
    fetched = await stores.fetch(store.location("k", bucket="nobody"), store.keys)
    assert (reasons(fetched), fetched.present) == (["BucketNotFound"], False)


async def test_two_gigabytes_are_refused_by_their_size(store, stores):
    path = store.folder / "wf" / "huge.json"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as sparse:
        sparse.truncate(2 << 30)
    tracemalloc.start()
    try:
        fetched = await stores.fetch(store.location("wf/huge.json"), store.keys)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (reasons(fetched), fetched.present, fetched.size) == (["TooLarge"], True, 2 << 30)
    assert peak < 4 << 20


async def test_an_archive_that_is_a_bomb_is_noted(store, stores):
    store.put("wf/bomb.tgz", tar(a=b"1", zeros=bytes(200 << 20)))
    fetched = await stores.fetch(store.location("wf/bomb.tgz"), store.keys)
    assert (fetched.blobs, reasons(fetched)) == ((Blob(path="a.json", data=b"1"),), ["TooLarge", "TooLarge"])


async def test_keys_that_the_store_refuses_say_what_to_grant(store, stores):
    for keys in (
        Credentials(access_key=store.keys.access_key, secret_key="CANARY-no"),
        Credentials(access_key="no", secret_key="no"),
    ):
        fetched = await stores.fetch(store.location("started"), keys)
        assert (reasons(fetched), fetched.present) == (["StoreForbidden"], None)
    anonymous = await stores.fetch(store.location("started", access_key=None), Credentials())
    assert reasons(anonymous) == ["StoreForbidden"]


async def test_a_directory_that_may_not_be_listed_says_what_to_grant(store, stores):
    fetched = await stores.fetch(
        store.location("wf/dir"), Credentials(access_key=store.keys.access_key, secret_key="no")
    )
    assert "s3:ListBucket" in fetched.notes[0].message


async def test_a_secret_of_a_namespace_without_binding_names_the_role(store, cluster, secret):
    async with await connect(cluster.user("tenant-a")) as tenant:
        reader = LiveReader(tenant)
        fetched = await reader.artifact(secret, file(store.location("started")))
        await reader.close()
    assert (reasons(fetched), fetched.again) == (["StoreForbidden"], True)
    assert f"bind ClusterRole pipetrail-references in namespace {secret}" in fetched.notes[0].message


async def test_a_missing_secret_and_a_missing_key_are_named(store, reader, kubectl, namespace):
    assert reasons(await reader.artifact(namespace, file(store.location("started")))) == ["SecretNotFound"]
    kubectl("create", "secret", "generic", "store", "-n", namespace, "--from-literal=accesskey=x")
    assert reasons(await reader.artifact(namespace, file(store.location("started")))) == ["SecretKeyNotFound"]


async def test_a_rotated_key_works_after_a_minute(store, stores, kube, kubectl, namespace):
    now = 0.0
    reader = LiveReader(kube, stores, clock=lambda: now)
    stale = ["--from-literal=accesskey=old", "--from-literal=secretkey=old"]
    kubectl("create", "secret", "generic", "store", "-n", namespace, *stale)
    assert reasons(await reader.artifact(namespace, file(store.location("started")))) == ["StoreForbidden"]
    fresh = {"stringData": {"accesskey": store.keys.access_key, "secretkey": store.keys.secret_key}}
    kubectl("patch", "secret", "store", "-n", namespace, "--patch-file", "/dev/stdin", stdin=fresh)
    now = 61.0
    assert (await reader.artifact(namespace, file(store.location("started")))).present


async def test_a_log_is_read_from_the_archive_when_the_pod_is_gone(store, reader, secret):
    store.put("wf/p/main.log", b"epoch=1 loss=1\nepoch=2 loss=0.5\n")
    ref = LogRef(step=0, pod="gone", pod_uid="u", archived=store.location("wf/p/main.log"))
    assert (await reader.log(secret, ref, tail_lines=1)).blobs == (Blob(path="main.log", data=b"epoch=2 loss=0.5\n"),)
    missing = LogRef(step=0, pod="gone", pod_uid="u", archived=store.location("wf/p/none.log"))
    assert (await reader.log(secret, missing)).present is False


async def test_forty_fetches_at_once_all_come(store, stores):
    for i in range(40):
        store.put(f"wf/par/{i}.json", b"%d" % i)
    fetched = await asyncio.gather(*(stores.fetch(store.location(f"wf/par/{i}.json"), store.keys) for i in range(40)))
    assert [f.blobs[0].data for f in fetched] == [b"%d" % i for i in range(40)]
