"""A loopback proxy in front of a real server that makes the network's misfortunes happen where a test wants them.

It sees every request before and after it takes effect, and so lets a test act at an instant ("kill the operator
just after this create"), with no switch in the product. For any HTTP server: a tracker, an API server (streams pass).
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host", "upgrade"}


@dataclass(frozen=True)
class Seen:
    """A request as it came. `path` has its percent-encoding; `number` counts from 1."""

    number: int
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def ends(self, tail: str, method: str | None = None) -> bool:
        """True if the path ends so (and the method is that)."""
        return self.path.endswith(tail) and method in (None, self.method)


@dataclass(frozen=True)
class Pass:
    """Let it through."""


@dataclass(frozen=True)
class Answer:
    """Answer this; `commit` first lets the real server do what was asked."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    commit: bool = False


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer; `commit` first lets the real server do what was asked."""

    commit: bool = False


@dataclass(frozen=True)
class CommitLater:
    """Close the connection at once, and let the request through when `when` is set: after the caller's look-up, say."""

    when: asyncio.Event


@dataclass(frozen=True)
class Truncate:
    """Let it through and send the first `keep` bytes of the answer, then close the connection."""

    keep: int = 10


@dataclass(frozen=True)
class Stall:
    """Say nothing for `seconds`, then close; `commit` first lets the real server do what was asked."""

    seconds: float = 3600.0
    commit: bool = False


Action = Pass | Answer | Drop | CommitLater | Truncate | Stall
Decide = Callable[[Seen], Action]
Watch = Callable[[Seen, int], Awaitable[None] | None]


def passing(_seen: Seen) -> Action:
    """All of it."""
    return Pass()


def once(action: Action, tail: str, method: str | None = None, *, times: int = 1) -> Decide:
    """`action` for the first `times` requests whose path ends in `tail`; all others pass."""
    left = times

    def decide(seen: Seen) -> Action:
        nonlocal left
        if left and seen.ends(tail, method):
            left -= 1
            return action
        return Pass()

    return decide


class Proxy:
    """`async with Proxy(upstream) as proxy: … proxy.url …`; `proxy.decide` may be changed at any time.

    `on_request` runs before a request is let through, `on_response` (status, 0 if none came) before its answer goes
    back: a test that acts there acts just before and just after the call takes effect. `log` has every request.

    Like an ingress it can serve under a `prefix`, which the real server does not see, and name another `host` to it.
    """

    def __init__(
        self, upstream: str, decide: Decide = passing, *, upstream_tls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None, port: int = 0, prefix: str = "", host: str | None = None,
    ) -> None:  # fmt: skip
        self.upstream = upstream.rstrip("/")
        self.decide = decide
        self.on_request: Watch | None = None
        self.on_response: Watch | None = None
        self.log: list[Seen] = []
        self.url = ""
        self._upstream_tls = upstream_tls
        self._tls = tls
        self._port = port
        self._prefix = prefix
        self._host = host
        self._later: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._upstream_tls or True, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._port}{self._prefix}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()

    def calls(self, tail: str = "", method: str | None = None) -> list[Seen]:
        """The requests whose path ends in `tail`."""
        return [s for s in self.log if s.ends(tail, method)]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = urlsplit(request.raw_path)
        if not parts.path.startswith(self._prefix):
            return web.Response(status=404, text="default backend - 404")
        body = await request.read()
        seen = Seen(
            len(self.log) + 1,
            request.method,
            parts.path.removeprefix(self._prefix),
            parts.query,
            dict(request.headers),
            body,
        )
        self.log.append(seen)
        action = self.decide(seen)
        await _tell(self.on_request, seen, 0)
        match action:
            case Pass():
                return await self._through(request, seen)
            case Answer(commit=commit):
                await self._commit(seen, commit)
                return web.Response(status=action.status, body=action.body, headers=dict(action.headers))
            case Drop(commit=commit):
                await self._commit(seen, commit)
            case CommitLater(when=when):
                task = asyncio.create_task(self._when(when, seen))
                self._later.add(task)
            case Truncate(keep=keep):
                async with self._call(seen) as answer:
                    whole = await answer.read()
                    await _tell(self.on_response, seen, answer.status)
                    cut = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
                cut.content_length = len(whole)
                await cut.prepare(request)
                await cut.write(whole[:keep])
            case Stall(seconds=seconds, commit=commit):
                await self._commit(seen, commit)
                await asyncio.sleep(seconds)
        return _hang_up(request)

    async def _commit(self, seen: Seen, commit: bool) -> None:
        status = 0
        if commit:
            async with self._call(seen) as answer:
                await answer.read()
                status = answer.status
        await _tell(self.on_response, seen, status)

    async def _when(self, when: asyncio.Event, seen: Seen) -> None:
        await when.wait()
        await self._commit(seen, commit=True)

    async def _through(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        try:
            async with self._call(seen) as answer:
                response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
                if answer.content_length is not None:
                    response.content_length = answer.content_length
                    whole = await answer.read()
                    await _tell(self.on_response, seen, answer.status)
                    await response.prepare(request)
                    await response.write(whole)
                    return response
                await _tell(self.on_response, seen, answer.status)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response
        except aiohttp.ClientError:  # the real server is down: so are we
            await _tell(self.on_response, seen, 0)
            return _hang_up(request)

    @contextlib.asynccontextmanager
    async def _call(self, seen: Seen) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(self.upstream + seen.path + (f"?{seen.query}" if seen.query else ""), encoded=True)
        headers = _kept(seen.headers) | ({"Host": self._host} if self._host else {})
        async with self._session.request(
            seen.method, url, data=seen.body or None, headers=headers, allow_redirects=False
        ) as answer:
            yield answer


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() not in HOP_BY_HOP - {"content-encoding"}}


def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _tell(watch: Watch | None, seen: Seen, status: int) -> None:
    if watch is not None and (done := watch(seen, status)) is not None:
        await done
