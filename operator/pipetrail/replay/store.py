"""The recorded objects in the live cluster's S3 store, under the keys that the played run names."""

import base64
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import aiohttp
from obstore import sign_async
from obstore.exceptions import BaseError
from obstore.store import S3Store

from pipetrail.kube import ApiError, Kube
from pipetrail.replay.play import ReplayError
from pipetrail.replay.script import Script, Store


def find_store(
    *, endpoint: str | None, bucket: str | None, secret: str | None, environment: Mapping[str, str] = os.environ
) -> Store | None:
    """The store that was named, else the one that `deploy/local/cluster.py env` exports; None if neither.

    `secret` is a Secret's name, or ``name:access-key:secret-key`` with the names of its keys.
    """
    endpoint = endpoint or environment.get("PIPETRAIL_S3_ENDPOINT")
    bucket = bucket or environment.get("PIPETRAIL_S3_BUCKET")
    if not (endpoint and bucket):
        return None
    region = environment.get("AWS_REGION", "")
    match (secret or "s3-credentials").split(":"):
        case [name]:
            return Store(endpoint=endpoint, bucket=bucket, region=region, secret=name)
        case [name, access_key, secret_key]:
            return Store(
                endpoint=endpoint, bucket=bucket, region=region, secret=name,
                access_key=access_key, secret_key=secret_key,
            )  # fmt: skip
        case _:
            raise ReplayError(f"--s3-secret is {secret!r}: write NAME, or NAME:ACCESS-KEY:SECRET-KEY")


async def upload(folder: Path, script: Script, kube: Kube, *, name: str) -> int:
    """Put what lies in the recording's `store/` where the run called `name` looks for it; the number of objects."""
    objects = [path for path in sorted((folder / "store").rglob("*")) if path.is_file()]
    if script.store is None or not objects:
        return 0
    keys = await _keys(script.store, kube, script.namespace)
    clients: dict[str, S3Store] = {}
    for path in objects:
        bucket, key = _place(script, path.relative_to(folder / "store").as_posix())
        key = script.renamed(key, name)
        try:
            if bucket not in clients:
                clients[bucket] = await _client(script.store, bucket, keys)
            await clients[bucket].put_async(key, path.read_bytes())
        except (BaseError, OSError, aiohttp.ClientError) as error:
            raise ReplayError(
                f"cannot write {key} into bucket {bucket} at {script.store.endpoint}: {error}; "
                "play without objects with --no-upload"
            ) from None
    return len(objects)


def _place(script: Script, path: str) -> tuple[str, str]:
    """Bucket and key of an object that lies at `path` in the recording's ``store/``."""
    assert script.store is not None
    if not script.repository:
        return script.store.bucket, path
    bucket, _, key = path.partition("/")
    return (script.store.bucket if bucket == script.repository else bucket), key


async def _client(store: Store, bucket: str, keys: tuple[str, str]) -> S3Store:
    """The store's `bucket`; one that the run's own repository does not have is made if it isn't there."""
    client = S3Store(
        bucket, endpoint=store.endpoint, region=store.region or "us-east-1", access_key_id=keys[0],
        secret_access_key=keys[1], virtual_hosted_style_request=False, client_options={"allow_http": store.insecure},
    )  # fmt: skip
    if bucket != store.bucket:
        address = await sign_async(client, "PUT", "", timedelta(minutes=1))
        limit = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=limit) as session, session.put(address) as answer:
            if answer.status not in (200, 409):  # 409: it is there
                raise OSError(f"the store answers {answer.status} when the bucket is to be made")
    return client


async def _keys(store: Store, kube: Kube, namespace: str) -> tuple[str, str]:
    try:
        data = (await kube.get(f"/api/v1/namespaces/{namespace}/secrets/{store.secret}"))["data"]
        return base64.b64decode(data[store.access_key]).decode(), base64.b64decode(data[store.secret_key]).decode()
    except ApiError as error:
        raise ReplayError(
            f"{error}; the store's credentials are read from this Secret (on the local cluster "
            f"`python3 deploy/local/cluster.py namespace {namespace}` makes it), or play with --no-upload"
        ) from None
    except KeyError as error:
        raise ReplayError(
            f"Secret {store.secret} in {namespace} has no key {error}: name its keys with --s3-secret"
        ) from None
