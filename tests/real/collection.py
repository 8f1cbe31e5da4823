"""An API server's lists and watches of one collection: versions, pages, history, bookmarks and 410, as Kubernetes says.

For what a real API server does only now and then. Paths are not looked at; a `trouble` is the next answer instead.
"""

import asyncio
import copy
import json
from collections import deque
from typing import Any

from aiohttp import web

EXPIRED = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}


def error(status: dict[str, Any]) -> bytes:
    """An event of type ERROR."""
    return _line("ERROR", status)


def _line(change: str, body: Any) -> bytes:
    return json.dumps({"type": change, "object": body}).encode() + b"\n"


class Collection:
    """`async with Collection() as server: … server.url …`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.tokens: list[str] = []
        self.troubles: deque[web.Response | bytes] = deque()
        self.version = 100
        self.url = ""
        self._objects: dict[str, Any] = {}
        self._history: list[tuple[int, bytes]] = []
        self._oldest = 100
        self._watches: dict[asyncio.Queue[bytes | None], web.BaseRequest] = {}

    async def __aenter__(self) -> "Collection":
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        await self._runner.cleanup()

    # --- what happens to objects ------------------------------------------------------------------------------------

    def put(self, name: str, *, namespace: str = "team", **body: Any) -> None:
        """Make or change an object."""
        change = "MODIFIED" if name in self._objects else "ADDED"
        self.version += 1
        meta = {"name": name, "uid": f"uid-{name}", "namespace": namespace, "resourceVersion": str(self.version)}
        self._objects[name] = {**body, "metadata": {**body.get("metadata", {}), **meta}}
        self._happened(change, self._objects[name])

    def delete(self, name: str) -> None:
        """Delete an object."""
        self.version += 1
        body = copy.deepcopy(self._objects.pop(name))
        body["metadata"]["resourceVersion"] = str(self.version)
        self._happened("DELETED", body)

    def bookmark(self) -> None:
        """Say in each watch where the collection stands."""
        self.write(_line("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}))

    def compact(self) -> None:
        """Forget what was before now."""
        self.version += 1
        self._oldest = self.version
        self._history.clear()

    def _happened(self, change: str, body: Any) -> None:
        line = _line(change, body)
        self._history.append((self.version, line))
        self.write(line)

    # --- what happens to watches ------------------------------------------------------------------------------------

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    @property
    def lists(self) -> list[dict[str, str]]:
        """What was asked of lists."""
        return [query for query in self.asked if "watch" not in query]

    @property
    def watches(self) -> list[dict[str, str]]:
        """What was asked of watches."""
        return [query for query in self.asked if "watch" in query]

    def write(self, data: bytes) -> None:
        """Send `data` in each open watch."""
        for queue in self._watches:
            queue.put_nowait(data)

    def end(self) -> None:
        """End each watch as a server does after its time."""
        for queue in self._watches:
            queue.put_nowait(None)

    def cut(self) -> None:
        """Cut each watch's connection."""
        for queue, request in self._watches.items():
            if request.transport is not None:
                request.transport.abort()
            queue.put_nowait(None)

    # --- the wire ---------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append(query)
        self.tokens.append(request.headers.get("Authorization", ""))
        if self.troubles:
            trouble = self.troubles.popleft()
            if isinstance(trouble, web.Response):
                return trouble
            return web.Response(body=trouble)
        return await self._watch(request, query) if "watch" in query else self._list(query)

    def _list(self, query: dict[str, str]) -> web.Response:
        version, after = (query.get("continue") or f"{self.version} ").split(" ")
        if int(version) < self._oldest:
            return web.json_response(EXPIRED, status=410)
        names = sorted(name for name in self._objects if name > after)
        page = names[: int(query["limit"])]
        meta = {"resourceVersion": version}
        if len(page) < len(names):
            meta["continue"] = f"{version} {page[-1]}"
        return web.json_response({"metadata": meta, "items": [self._objects[name] for name in page]})

    async def _watch(self, request: web.BaseRequest, query: dict[str, str]) -> web.StreamResponse:
        version = int(query["resourceVersion"])
        if version < self._oldest:
            return web.json_response(EXPIRED, status=410)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for at, line in self._history:
            if at > version:
                queue.put_nowait(line)
        self._watches[queue] = request
        try:
            while (data := await queue.get()) is not None:
                await response.write(data)
        except ConnectionResetError:
            pass
        finally:
            del self._watches[queue]
        return response
