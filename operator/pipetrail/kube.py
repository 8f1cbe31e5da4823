"""The connection to the API server: paths in, JSON out, errors as one tree.

Built on the official client's asyncio core (configuration, token refresh, connection pool). Its typed models are left
aside: they cost a parse into objects that nothing here needs. Every call has a time-out and says what it was when it
fails; neither a token nor a body ever stands in an exception.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from kubernetes.aio.config import kube_config

from pipetrail.shards import WHOLE, Share

TIMEOUT_S: Final = 30.0
WATCH_S: Final = 300
PAGE: Final = 250  # objects a list page: 20 KB Workflows make pages of 5 MB
MERGE_PATCH: Final = "application/merge-patch+json"
TRACKED_RUNS: Final = "/apis/pipetrail.dev/v1alpha1"
ARGO: Final = "/apis/argoproj.io/v1alpha1"


def collections(root: str, plural: str, namespaces: Sequence[str] = (), share: Share = WHOLE) -> tuple[str, ...]:
    """Paths of the lists of a kind: one for the whole cluster or, if some are named, one for each that is ours."""
    if not namespaces:
        return (f"{root}/{plural}",)
    return tuple(f"{root}/namespaces/{name}/{plural}" for name in namespaces if share.owns(name))


class KubeError(Exception):
    """Anything that went wrong between us and the API server."""


class ApiError(KubeError):
    """The API server answered with an error: `status` is HTTP's, `reason` Kubernetes' own word (NotFound, Conflict)."""

    def __init__(self, status: int, reason: str, message: str, call: str) -> None:
        super().__init__(f"{call}: {status} {reason}: {message[:500]}")
        self.status = status
        self.reason = reason
        self.message = message


class Unreachable(KubeError):
    """No answer: the connection failed or the time ran out. A write may have happened or not."""


class Kube:
    """One API server, as one user.

    `on_write` is called with the verb and the plural of each write, so that writes can be counted.
    """

    def __init__(self, configuration: Any, *, on_write: Callable[[str, str], None] | None = None) -> None:
        configuration.retries = None  # a retry is the caller's decision
        # Else aiohttp looks for a proxy and reads ~/.netrc, each in a thread, for every single call.
        configuration.client_session_kwargs = {"trust_env": False}
        configuration.proxy = configuration.proxy or _proxy(str(configuration.host))
        self._api = k8s.ApiClient(configuration)
        self._on_write = on_write
        self._context: str | None = None
        self._from_file = False

    @classmethod
    async def connect(
        cls, context: str | None = None, *, on_write: Callable[[str, str], None] | None = None, connections: int = 100
    ) -> Self:
        """Connect as kubectl would: the pod's ServiceAccount, else KUBECONFIG or ~/.kube/config (`context` of it).

        At most so many `connections` at a time, 0 for any number: a watch holds one.
        """
        configuration = k8s.Configuration()
        configuration.connection_pool_maxsize = connections
        try:
            if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                k8s_config.load_incluster_config(configuration)
            else:
                await k8s_config.load_kube_config(
                    context=context, client_configuration=configuration, persist_config=False
                )
        except (k8s_config.ConfigException, OSError, TypeError) as error:
            raise KubeError(f"no cluster to talk to: {error}; set KUBECONFIG or pass --context") from None
        made = cls(configuration, on_write=on_write)
        made._context = context
        made._from_file = context is not None or "KUBERNETES_SERVICE_HOST" not in os.environ
        return made

    @property
    def host(self) -> str:
        """Address of the API server."""
        return str(self._api.configuration.host)

    async def renew(self) -> bool:
        """Read the token anew where it lies: the one that we have is no longer taken. True if there is another one.

        In a pod the client does so by itself every minute.
        """
        if not self._from_file:
            return False
        fresh = k8s.Configuration()
        try:
            await k8s_config.load_kube_config(context=self._context, client_configuration=fresh, persist_config=False)
        except (k8s_config.ConfigException, OSError, TypeError):
            return False
        mine = self._api.configuration
        changed = bool(fresh.api_key != mine.api_key)
        mine.api_key = fresh.api_key
        return changed

    async def credentials(self) -> dict[str, Any]:
        """What kopf needs to log in as the same user; a token that is refreshed is read anew each time."""
        await self.renew()
        configuration = self._api.configuration
        setting = (await configuration.auth_settings()).get("BearerToken") or {}
        scheme, _, token = str(setting.get("value") or "").partition(" ")
        return {
            "server": configuration.host,
            "ca_path": configuration.ssl_ca_cert or None,
            "insecure": not configuration.verify_ssl,
            "certificate_path": configuration.cert_file or None,
            "private_key_path": configuration.key_file or None,
            "scheme": scheme.capitalize() or None,
            "token": token or None,
        }

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
                raise await _error(response, f"GET {path}")
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
                raise await _error(response, call)
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
                if response.status == 401 and await self.renew():
                    response.release()
                    response = await self._send(
                        method, path, timeout_s=timeout_s, query=query, body=body,
                        content_type=content_type, metadata_only=metadata_only,
                    )  # fmt: skip
                try:
                    if response.status >= 400:
                        raise await _error(response, call)
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


def context_namespace(context: str | None) -> str:
    """The namespace that kubectl would take: the one of the kubeconfig's context, else ``default``."""
    try:
        contexts, active = kube_config.list_kube_config_contexts()
    except (k8s_config.ConfigException, OSError):
        return "default"  # no kubeconfig, as in a pod: connecting will say what is wrong if anything is
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen.get("context", {}).get("namespace") or "default")


def _proxy(address: str) -> str | None:
    """The proxy that the environment names for the API server, as kubectl would take it (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(address)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    found = getproxies()
    return found.get(parts.scheme) or found.get("all")


async def _error(response: aiohttp.ClientResponse, call: str) -> ApiError:
    raw = await response.content.read(1 << 16)
    try:
        status = msgspec.json.decode(raw)
        reason, message = str(status.get("reason") or response.reason), str(status.get("message") or "")
    except (msgspec.DecodeError, AttributeError):
        reason, message = str(response.reason), raw.decode("utf-8", "replace")
    return ApiError(response.status, reason, message, call)
