"""A bucket or a folder of the operator's own, for copies that etcd has no room for.

``s3://bucket/prefix`` or ``file:///folder``. Credentials are those of the operator's environment, as AWS's tools read
them (``AWS_ACCESS_KEY_ID``, a web identity, ``AWS_ENDPOINT_URL`` and so on). Nothing that a user of the cluster wrote
decides where it is.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

CALL_S: Final = 60.0
SUFFIX: Final = ".copy"


class OverflowFailed(Exception):
    """The store did not do what it was asked; the text says what, and no credential stands in it."""


class OverflowStore:
    """Named objects in one place. Every call has a time-out and raises :class:`OverflowFailed` alone."""

    def __init__(self, url: str) -> None:
        """Raises :class:`ValueError` for an address of another form."""
        self.url = url
        self._store = _store(url)

    async def names(self) -> AsyncIterator[str]:
        """All names that were put."""
        with _failing(self.url, "list"):
            stream = obstore.list(self._store)
            while True:
                async with asyncio.timeout(CALL_S):
                    batch = await anext(stream, None)
                if batch is None:
                    return
                for found in batch:
                    name = PurePosixPath(found["path"]).name
                    if name.endswith(SUFFIX):
                        yield name.removesuffix(SUFFIX)

    async def put(self, name: str, data: bytes) -> None:
        """Write an object, or put it in the place of what has that name."""
        with _failing(self.url, "write"):
            async with asyncio.timeout(CALL_S):
                await obstore.put_async(self._store, name + SUFFIX, data)

    async def get(self, name: str, most: int | None = None) -> bytes:
        """An object's bytes, or its first `most`."""
        with _failing(self.url, "read"):
            async with asyncio.timeout(CALL_S):
                if most is not None:
                    return bytes(await obstore.get_range_async(self._store, name + SUFFIX, start=0, end=most))
                return bytes(await (await obstore.get_async(self._store, name + SUFFIX)).bytes_async())

    async def delete(self, name: str) -> None:
        """Delete an object; gone already is fine."""
        with _failing(self.url, "delete"), contextlib.suppress(FileNotFoundError):
            async with asyncio.timeout(CALL_S):
                await obstore.delete_async(self._store, name + SUFFIX)


def _store(url: str) -> Any:
    parts = urlsplit(url)
    match parts.scheme:
        case "file" if parts.netloc in ("", "localhost") and parts.path.startswith("/") and parts.path != "/":
            try:
                return LocalStore(unquote(parts.path), mkdir=True)
            except (BaseError, OSError) as error:
                raise ValueError(f"{url}: no folder to write to ({type(error).__name__})") from None
        case "s3" if parts.netloc and not (parts.query or parts.fragment or "@" in parts.netloc):
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
            options: Any = {
                "timeout": timedelta(seconds=30), "connect_timeout": timedelta(seconds=5),
                "allow_http": endpoint.startswith("http://"),
            }  # fmt: skip
            retry: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
            config: Any = {"endpoint": endpoint} if endpoint else {}
            prefix = parts.path.strip("/")
            return S3Store(
                parts.netloc, prefix=prefix or None, config=config, client_options=options, retry_config=retry
            )
    raise ValueError(f"{url}: write it like s3://bucket/prefix or file:///folder")


@contextlib.contextmanager
def _failing(url: str, verb: str) -> Any:
    """Errors of the library as ours: their own texts hold whole requests."""
    try:
        yield
    except TimeoutError:
        raise OverflowFailed(f"{verb} {url}: no answer within {CALL_S:.0f} s") from None
    except FileNotFoundError:
        raise OverflowFailed(f"{verb} {url}: there is no such object, bucket or folder") from None
    except (BaseError, OSError) as error:
        raise OverflowFailed(f"{verb} {url}: {type(error).__name__}") from None
