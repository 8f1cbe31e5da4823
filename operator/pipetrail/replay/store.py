"""The recorded objects in the live cluster's S3 store, under the keys that the played run names."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path

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
    client = await _client(script.store, kube, script.namespace)
    for path in objects:
        key = script.renamed(path.relative_to(folder / "store").as_posix(), name)
        try:
            await client.put_async(key, path.read_bytes())
        except (BaseError, OSError) as error:
            raise ReplayError(
                f"cannot write {key} into bucket {script.store.bucket} at {script.store.endpoint}: {error}; "
                "play without objects with --no-upload"
            ) from None
    return len(objects)


async def _client(store: Store, kube: Kube, namespace: str) -> S3Store:
    try:
        data = (await kube.get(f"/api/v1/namespaces/{namespace}/secrets/{store.secret}"))["data"]
        access, secret = (base64.b64decode(data[key]).decode() for key in (store.access_key, store.secret_key))
    except ApiError as error:
        raise ReplayError(
            f"{error}; the store's credentials are read from this Secret (on the local cluster "
            f"`python3 deploy/local/cluster.py namespace {namespace}` makes it), or play with --no-upload"
        ) from None
    except KeyError as error:
        raise ReplayError(
            f"Secret {store.secret} in {namespace} has no key {error}: name its keys with --s3-secret"
        ) from None
    return S3Store(
        store.bucket, endpoint=store.endpoint, region=store.region or "us-east-1", access_key_id=access,
        secret_access_key=secret, virtual_hosted_style_request=False, client_options={"allow_http": store.insecure},
    )  # fmt: skip
