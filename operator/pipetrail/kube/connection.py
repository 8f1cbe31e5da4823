"""The connection to the API server: paths in, JSON out, errors as one tree.

Built on the official client's asyncio core (configuration, token refresh, connection pool). Its typed models are left
aside: they cost a parse into objects that nothing here needs. Every call has a time-out and says what it was when it
fails; neither a token nor a body ever stands in an exception.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from pipetrail.kube.errors import ApiError, Unreachable, refusal
from pipetrail.kube.login import Login

TIMEOUT_S: Final = 30.0
WATCH_S: Final = 300
PAGE: Final = 250  # objects a list page: 20 KB Workflows make pages of 5 MB
MERGE_PATCH: Final = "application/merge-patch+json"


class Kube:
    """One API server, as one user.

    `on_write` is called with the verb and the plural of each write, so that writes can be counted.
    """

    def __init__(
        self, configuration: Any, *, on_write: Callable[[str, str], None] | None = None, login: Login | None = None
    ) -> None:
        self.login = login or Login(configuration)
        self._api = k8s.ApiClient(configuration)
        self._on_write = on_write

    @classmethod
    async def connect(
        cls, context: str | None = None, *, on_write: Callable[[str, str], None] | None = None, connections: int = 100
    ) -> Self:
        """Connect as :meth:`Login.find` says."""
        login = await Login.find(context, connections=connections)
        return cls(login.configuration, on_write=on_write, login=login)

    @property
    def host(self) -> str:
        """Address of the API server."""
        return str(self._api.configuration.host)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get(self, path: str, *, timeout_s: float = TIMEOUT_S, **query: str | int) -> Any:
        """The JSON body at `path`."""
        return await self._json("GET", path, timeout_s=timeout_s, query=query)

    async def get_bytes(self, path: str, *, most: int, timeout_s: float = TIMEOUT_S, **query: str | int) -> bytes:
        """The body at `path` (a log, a page of a list), at most `most` bytes of it."""
        data = bytearray()
        try:
            async with (
                asyncio.timeout(timeout_s),
                contextlib.aclosing(self.stream(path, timeout_s=timeout_s, silence_s=timeout_s, **query)) as pieces,
            ):
                async for piece in pieces:
                    data += piece[: most - len(data)]
                    if len(data) >= most:
                        break
        except TimeoutError:
            raise Unreachable(f"GET {path}: TimeoutError") from None
        return bytes(data)

    async def stream(
        self, path: str, *, timeout_s: float, silence_s: float, **query: str | int
    ) -> AsyncGenerator[bytes, None]:
        """The body at `path` in pieces as they come, until the server ends it; an empty one first, when it answers.

        Raises :class:`Unreachable` if nothing comes for `silence_s` or all of it takes longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(silence_s):
                response = await self._send("GET", path, timeout_s=timeout_s, query=query)
        except TimeoutError:
            raise Unreachable(f"GET {path}: TimeoutError") from None
        try:
            if response.status >= 400:
                raise await refusal(response, f"GET {path}")
            yield b""
            while True:
                async with asyncio.timeout(silence_s):
                    piece = await response.content.readany()
                if not piece:
                    return
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"GET {path}: {type(error).__name__}") from None
        finally:
            response.close()

    async def watch(self, path: str, **query: str | int) -> AsyncIterator[Any]:
        """Watch events at `path` as they come, until the server ends it: watch on from the last version.

        An ERROR event is raised as :class:`ApiError` (410: the version is too old, list anew).
        """
        call = f"WATCH {path}"
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_S, **query}
        response = await self._send("GET", path, timeout_s=WATCH_S + TIMEOUT_S, query=query)
        try:
            if response.status >= 400:
                raise await refusal(response, call)
            async for line in response.content:
                event = msgspec.json.decode(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""), call)
                yield event
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise Unreachable(f"{call}: {type(error).__name__}") from None
        finally:
            response.close()

    async def pages(self, path: str, *, metadata_only: bool = False, **query: str | int) -> AsyncIterator[Any]:
        """The list at `path`, page by page. A list that expires while we read it raises :class:`ApiError` 410."""
        following: dict[str, str | int] = {}
        while True:
            page = await self._json(
                "GET", path, query={**query, "limit": PAGE, **following}, metadata_only=metadata_only
            )
            if page.get("items") is None:  # an empty list of metadata alone
                page["items"] = []
            yield page
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            following = {"continue": token}

    async def post(self, path: str, body: Mapping[str, Any], **query: str | int) -> Any:
        """Create an object."""
        return await self._json("POST", path, body=body, query=query)

    async def patch(
        self, path: str, body: Mapping[str, Any], *, content_type: str = MERGE_PATCH, **query: str | int
    ) -> Any:
        """Merge-patch an object; with a resourceVersion in `body` the patch fails (409) if someone was faster."""
        return await self._json("PATCH", path, body=body, content_type=content_type, query=query)

    async def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """Replace an object."""
        return await self._json("PUT", path, body=body)

    async def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Delete an object."""
        return await self._json("DELETE", path, body=body)

    async def _json(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str | int] | None = None,
        timeout_s: float = TIMEOUT_S,
        metadata_only: bool = False,
    ) -> Any:
        if self._on_write and method != "GET":
            self._on_write(method, path.split("?")[0].rstrip("/").split("/")[-1 if method == "POST" else -2])
        call = f"{method} {path}"
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._send(
                    method, path, timeout_s=timeout_s, query=query, body=body,
                    content_type=content_type, metadata_only=metadata_only,
                )  # fmt: skip
                if response.status == 401 and await self.login.renew():
                    response.release()
                    response = await self._send(
                        method, path, timeout_s=timeout_s, query=query, body=body,
                        content_type=content_type, metadata_only=metadata_only,
                    )  # fmt: skip
                try:
                    if response.status >= 400:
                        raise await refusal(response, call)
                    return msgspec.json.decode(await response.read())
                finally:
                    response.release()
        except msgspec.DecodeError:
            raise Unreachable(f"{call}: the answer is not JSON") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{call}: {type(error).__name__}") from None

    async def _send(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        metadata_only: bool = False,
    ) -> aiohttp.ClientResponse:
        if {"", ".", ".."} & set(path.strip("/").split("/")):
            # A tenant may have written the name that stands here; a URL library would walk it up.
            raise ApiError(400, "BadRequest", "a name holds a slash or dots", f"{method} {path}")
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" if metadata_only else "*/*"
        headers = {"Content-Type": content_type, "Accept": accept}
        try:
            serialized = await self._api.param_serialize(
                method, quote(path, safe="/:~"), query_params=list((query or {}).items()), header_params=headers,
                auth_settings=["BearerToken"], body=body,
            )  # fmt: skip
        except k8s_config.ConfigException:  # a token that is being renewed; its text may hold a command's output
            raise Unreachable(f"{method} {path}: no credentials at the moment") from None
        _, url, sent_headers, sent_body, _ = serialized
        try:
            answer = await self._api.rest_client.request(
                method, url, headers=sent_headers, body=sent_body, _request_timeout=timeout_s
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {type(error).__name__}") from None
        response: aiohttp.ClientResponse = answer.response
        return response
