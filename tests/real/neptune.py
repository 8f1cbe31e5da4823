"""A server that speaks Neptune 1.x's recorded protocol. **It stands in for a vendor's service that can't be had**: the
hosted one is closed, and there is none to install.

``with serving() as server: … server.url, server.token() …``. What it does is what the vendor's client 1.14 asks for
(targets.md §2.2), so it shows what that client sends and how it takes answers, and nothing of how Neptune itself stores
anything. Where that is not known it is pessimistic: points are appended without a look for doubles, a request may be
taken in part and answered 200, an attribute may be lost, a search may be late (:class:`Faults`). Requests and answers
are lost by a proxy before it (tests/real/proxy.py). It runs as a process of its own and ends with the one that made it.
"""

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web
from tests.real.neptune_runs import Faults, Run, Runs
from tests.real.neptune_swagger import backend, leaderboard

WORKSPACE, PROJECT = "team-a", "pipelines"
KEY = "a good key"
PROJECT_ID = "6f1c4f8e-0000-4000-8000-000000000001"
START_S = 30.0


@dataclass
class Server:
    """A server that runs. `project` is what a target names."""

    url: str
    process: "subprocess.Popen[bytes]"
    project: str = f"{WORKSPACE}/{PROJECT}"

    def token(self, url: str = "", key: str = KEY) -> str:
        """An API token as this server would give it out, for the address `url` (the server itself, or a proxy)."""
        return token(url or self.url, key)

    def faults(self, **faults: Any) -> None:
        """From now on these go wrong, and nothing else."""
        self._post("/control/faults", asdict(Faults(**faults)))

    def runs(self) -> list[dict[str, Any]]:
        """Everything that it holds."""
        return json.loads(self._post("/control/runs", {}))

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)

    def _post(self, path: str, body: Any) -> bytes:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()


def token(url: str, key: str = KEY) -> str:
    """An API token: base64 of JSON that names the server."""
    return base64.b64encode(json.dumps({"api_address": url, "api_url": url, "api_key": key}).encode()).decode()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that answers, stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.real.neptune"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        server = Server(f"http://127.0.0.1:{port}", process)
        yield server
    finally:
        server.stop()
        process.stdout.close()


class App:
    """The routes."""

    def __init__(self) -> None:
        self.runs = Runs()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._faulty], client_max_size=64 << 20)
        board, back = "/api/leaderboard/v1", "/api/backend/v1"
        upload = f"{board}/attributes/storage/file/upload"
        app.add_routes([
            web.get("/api/backend/swagger.json", _answering(backend())),
            web.get("/api/leaderboard/swagger.json", _answering(leaderboard())),
            web.get(f"{back}/clients/config", self._config),
            web.get(f"{back}/authorization/oauth-token", self._oauth),
            web.post("/auth/realms/neptune/protocol/openid-connect/token", self._refresh),
            web.get(f"{back}/projects/get", self._project),
            web.get(f"{back}/projects", _answering({"entries": []})),
            web.get(f"{back}/myOrganizations", _answering([{"id": "1", "name": WORKSPACE}])),
            web.post(f"{board}/experiments", self._create),
            web.get(f"{board}/experiments", self._get),
            web.post(f"{board}/experiments/trash", self._trash),
            web.get(f"{board}/attributes", self._attributes),
            web.post(f"{board}/attributes/operations", self._operations),
            web.post(f"{board}/attributes/ping", _answering({})),
            web.get(f"{board}/attributes/series/float", self._series),
            web.get(f"{board}/attributes/download", self._download),
            web.post(upload, self._upload),
            web.post(f"{board}/leaderboard/entries/search", self._search),
            web.post("/control/faults", self._set_faults),
            web.post("/control/runs", self._all),
        ])  # fmt: skip
        return app

    @web.middleware
    async def _faulty(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        faults = self.runs.faults
        if not request.path.startswith("/control"):
            for end, status in faults.status.items():
                if request.path.endswith(end):
                    return web.Response(
                        status=status, text=faults.body, content_type="application/json", headers=faults.headers
                    )
            if request.path.startswith("/api/leaderboard/v1") or request.path.endswith("/projects/get"):
                known = request.headers.get("Authorization", "").startswith("Bearer ")
                if not known:
                    raise web.HTTPUnauthorized
        return await handler(request)

    async def _config(self, request: web.Request) -> web.Response:
        url = _address(request)
        versions = {"minRecommendedVersion": None, "minCompatibleVersion": None, "maxCompatibleVersion": None}
        return web.json_response({"apiUrl": url, "applicationUrl": url, "pyLibVersions": versions})

    async def _oauth(self, request: web.Request) -> web.Response:
        return web.json_response({**_tokens(_address(request)), "username": "ada"})

    async def _refresh(self, request: web.Request) -> web.Response:
        issued = _tokens(f"http://{request.host}")
        return web.json_response({
            "access_token": issued["accessToken"], "refresh_token": issued["refreshToken"], "expires_in": 3600,
            "token_type": "Bearer",
        })  # fmt: skip

    async def _project(self, request: web.Request) -> web.Response:
        if request.query["projectIdentifier"] != f"{WORKSPACE}/{PROJECT}":
            raise web.HTTPNotFound(text="{}", content_type="application/json")
        return web.json_response(
            {"id": PROJECT_ID, "name": PROJECT, "organizationName": WORKSPACE, "projectKey": "PIPE", "version": 2}
        )

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        custom = body.get("customId")
        assert custom is None or len(custom) <= 36
        return web.json_response(_experiment(self.runs.create(custom)))

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(_experiment(self._run(request)))

    async def _trash(self, request: web.Request) -> web.Response:
        done = []
        for name in await request.json():
            if (run := self.runs.get(name)) is not None:
                run.trashed = True
                done.append(name)
        return web.json_response({"errors": [], "updatedExperimentIdentifiers": done})

    async def _attributes(self, request: web.Request) -> web.Response:
        if request.query["experimentId"] == PROJECT_ID:  # the client reads a project's own too
            return web.json_response({"attributes": [], "id": PROJECT_ID, "trashed": False})
        run = self._run(request)
        found = [_attribute(path, kind, value) for path, (kind, value) in run.attributes.items()]
        return web.json_response({"attributes": found, "id": run.id, "trashed": run.trashed})

    async def _operations(self, request: web.Request) -> web.Response:
        run, operations = self._run(request), await request.json()
        fresh = {o["path"] for o in operations} - run.attributes.keys()
        if self.runs.faults.limit and len(run.attributes) + len(fresh) > self.runs.faults.limit:
            return web.json_response({"title": "Too many attributes"}, status=422)
        errors = self.runs.execute(run, operations)
        return web.json_response([{"errorDescription": e, "errorType": "metadata_inconsistency"} for e in errors])

    async def _series(self, request: web.Request) -> web.Response:
        kind, points = self._run(request).attributes.get(request.query["attribute"], ("", []))
        if kind != "floatSeries":
            raise web.HTTPNotFound(text="{}", content_type="application/json")
        offset, limit = int(request.query["offset"]), min(int(request.query["limit"]), 1000)
        return web.json_response({"totalItemCount": len(points), "values": points[offset : offset + limit]})

    async def _upload(self, request: web.Request) -> web.Response:
        if self.runs.faults.uploads != 200:
            return web.Response(status=self.runs.faults.uploads, text="{}", content_type="application/json")
        run = self.runs.get(request.query["experimentIdentifier"])
        if run is None:
            raise web.HTTPNotFound(text="{}", content_type="application/json")
        data, ext = await request.read(), request.query["ext"]
        run.attributes[request.query["attribute"]] = ("file", {"ext": ext, "data": base64.b64encode(data).decode()})
        return web.json_response({"errors": []})

    async def _download(self, request: web.Request) -> web.Response:
        _, file = self._run(request).attributes[request.query["attribute"]]
        name = f"file.{file['ext']}"
        return web.Response(
            body=base64.b64decode(file["data"]), headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    async def _search(self, request: web.Request) -> web.Response:
        asked = await request.json()
        query = (asked.get("query") or {}).get("query") or ""
        paging = asked["pagination"]
        found = sorted(self.runs.search(query), key=lambda r: r.short)
        if "sys/trashed" in query:
            found = [r for r in found if not r.trashed]
        columns = {c["path"] for c in asked.get("attributeFilters") or ()}
        page = found[paging["offset"] : paging["offset"] + paging["limit"]]
        entries = [
            {
                "experimentId": run.id,
                "attributes": [
                    _attribute(path, kind, value) for path, (kind, value) in run.attributes.items() if path in columns
                ],
            }
            for run in page
        ]
        return web.json_response({"matchingItemCount": len(found), "entries": entries})

    async def _set_faults(self, request: web.Request) -> web.Response:
        self.runs.faults = Faults(**await request.json())
        return web.json_response({})

    async def _all(self, _request: web.Request) -> web.Response:
        return web.json_response([
            {"short": r.short, "trashed": r.trashed, "customId": r.custom_id, "attributes": r.attributes}
            for r in self.runs._runs
        ])  # fmt: skip

    def _run(self, request: web.Request) -> Run:
        run = self.runs.get(request.query["experimentId"])
        if run is None:
            raise web.HTTPNotFound(text='{"errorType": "EXPERIMENT_NOT_FOUND"}', content_type="application/json")
        return run


def _answering(body: Any) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


def _address(request: web.Request) -> str:
    """Where the caller reached us, as its token says; a token that is not ours is refused."""
    try:
        read = json.loads(base64.b64decode(request.headers["X-Neptune-Api-Token"]))
    except (KeyError, ValueError):
        raise web.HTTPUnauthorized from None
    if read.get("api_key") != KEY:
        raise web.HTTPUnauthorized(text="{}", content_type="application/json")
    return str(read["api_address"])


def _tokens(address: str) -> dict[str, str]:
    claims = {"exp": int(time.time()) + 3600, "azp": "neptune-cli", "iss": f"{address}/auth/realms/neptune"}
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    coded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return {"accessToken": ".".join([*coded, "c2lnbmVk"]), "refreshToken": "refresh"}


def _experiment(run: Run) -> dict[str, Any]:
    return {
        "id": run.id, "shortId": run.short, "organizationName": WORKSPACE, "projectName": PROJECT,
        "trashed": run.trashed, "type": "run",
    }  # fmt: skip


def _attribute(path: str, kind: str, value: Any) -> dict[str, Any]:
    match kind:
        case "floatSeries":
            last = value[-1] if value else {"value": None, "step": None}
            shown = {"last": last["value"], "lastStep": last["step"]}
        case "datetime":
            seconds, ms = divmod(value, 1000)
            shown = {"value": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03d}Z"}
        case "file":
            shown = {"name": path.rpartition("/")[2], "ext": value["ext"], "size": len(base64.b64decode(value["data"]))}
        case _:
            shown = {"value": value}
    return {"name": path, "type": kind, f"{kind}Properties": {"attributeName": path, "attributeType": kind, **shown}}


async def main() -> None:
    """Serve on a port that is free, say which, and end when stdin does."""
    runner = web.AppRunner(App().application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
