"""The live reader against an API server's wire: Secrets by name, logs by uid. The Kube client is the real one."""

import base64
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio import client as k8s
from msgspec.structs import replace

from pipetrail.kube import Kube
from pipetrail.readers import Blob, Fetched
from pipetrail.readers.live import LiveReader
from pipetrail.sources import FileRef, LogRef, S3Location, SecretKey

NS = "/api/v1/namespaces/team-a"


class Wire:
    """An API server and a store in one: paths to answers; what was asked is written down."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {}
        self.asked: list[str] = []
        self.now = 0.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs.partition('X-Amz')[0].rstrip('?')}")
        status, body = self.answers.get(request.path, (404, {"reason": "NotFound", "message": "CANARY"}))
        if callable(body):
            body = body()
        if isinstance(body, bytes):
            return web.Response(status=status, body=body)
        return web.json_response(body, status=status)

    def secret(self, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.answers[f"{NS}/secrets/store"] = (200, {"data": encoded})

    def pod(self, uid: str, log: bytes = b"2026-11-23T19:42:06Z epoch=1 loss=1\n") -> None:
        self.answers[f"{NS}/pods/p"] = (200, {"metadata": {"uid": uid}, "spec": {"nodeName": "node0"}})
        self.answers[f"{NS}/pods/p/log"] = (200, log)

    def location(self, key: str) -> S3Location:
        return S3Location(
            endpoint=f"127.0.0.1:{self.port}", bucket="b", key=key, insecure=True,
            access_key=SecretKey(name="store", key="access"), secret_key=SecretKey(name="store", key="secret"),
        )  # fmt: skip

    port = 0


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def reader(wire: Wire) -> AsyncIterator[LiveReader]:
    async with Kube(k8s.Configuration(host=f"http://127.0.0.1:{wire.port}")) as kube:
        made = LiveReader(kube, clock=lambda: wire.now)
        yield made
        await made.close()


def reasons(fetched: Fetched) -> list[str]:
    assert "CANARY" not in repr(fetched)
    return [note.reason for note in fetched.notes]


def file(wire: Wire, key: str = "wf/m.json") -> FileRef:
    return FileRef(step=0, artifact="metrics", path="/tmp/m.json", location=wire.location(key))


async def test_an_artifact_is_fetched_with_the_keys_of_its_namespace(wire, reader):
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/m.json"] = (200, b'{"a": 1}')
    fetched = await reader.artifact("team-a", file(wire))
    assert (fetched.blobs, reasons(fetched)) == ((Blob(path="m.json", data=b'{"a": 1}'),), [])


async def test_of_a_model_only_the_size_is_asked_for(wire, reader):
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/model.tgz"] = (200, b"x" * 50)
    ref = FileRef(step=0, artifact="model", path="/tmp/model.pt", location=wire.location("wf/model.tgz"))
    fetched = await reader.artifact("team-a", ref)
    assert (fetched.blobs, fetched.present, fetched.size) == ((), True, 50)
    assert not any(asked.startswith("GET /b/") for asked in wire.asked)


async def test_a_page_is_read_under_its_suffixes_and_another_file_only_if_it_may_hold_a_number(wire, reader):
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/page.html"] = (200, b"<p>")
    page = FileRef(step=0, artifact="page", path=None, location=wire.location("wf/page.html"), figure="html")
    assert [b.data for b in (await reader.artifact("team-a", page)).blobs] == [b"<p>"]
    assert (await reader.artifact("team-a", replace(page, figure=None))).blobs == ()


async def test_a_secret_is_kept_for_a_minute(wire, reader):
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/m.json"] = (200, b"1")
    for wire.now in (0.0, 59.0, 61.0):
        await reader.artifact("team-a", file(wire))
    assert wire.asked.count(f"GET {NS}/secrets/store") == 2


async def test_a_secret_that_the_operator_may_not_read_names_the_binding_to_add(wire, reader):
    wire.answers[f"{NS}/secrets/store"] = (403, {"reason": "Forbidden", "message": "CANARY"})
    fetched = await reader.artifact("team-a", file(wire))
    assert (reasons(fetched), fetched.present, fetched.again) == (["StoreForbidden"], None, True)
    assert "bind ClusterRole pipetrail-references in namespace team-a" in fetched.notes[0].message


async def test_once_the_binding_is_there_the_artifact_is_read_at_once(wire, reader):
    wire.answers[f"{NS}/secrets/store"] = (403, {"reason": "Forbidden"})
    await reader.artifact("team-a", file(wire))
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/m.json"] = (200, b"1")
    assert (await reader.artifact("team-a", file(wire))).present


async def test_a_secret_or_a_key_in_it_that_is_missing_is_named(wire, reader):
    missing = await reader.artifact("team-a", file(wire))
    assert (reasons(missing), missing.again) == (["SecretNotFound"], True)
    wire.secret(access="AKIATEST")
    assert reasons(await reader.artifact("team-a", file(wire))) == ["SecretKeyNotFound"]


@pytest.mark.parametrize("name", ["../../kube-system/secrets/store", "..", "a/b", "a?b", "A", "", "a%2fb", "store\n"])
async def test_a_name_that_leads_elsewhere_is_no_secret(wire, reader, name):
    wire.answers["/api/v1/namespaces/kube-system/secrets/store"] = (200, {"data": {"access": "Q0FOQVJZ"}})
    location = S3Location(endpoint="127.0.0.1:1", bucket="b", key="k", access_key=SecretKey(name=name, key="access"))
    fetched = await reader.artifact("team-a", FileRef(step=0, artifact="a", path=None, location=location))
    assert (reasons(fetched), wire.asked) == (["SecretNotFound"], [])


async def test_a_name_that_leads_elsewhere_is_no_pod(wire, reader):
    ref = LogRef(step=0, pod="../../kube-system/pods/p", pod_uid="u1")
    assert (reasons(await reader.log("team-a", ref)), wire.asked) == (["LogGone"], [])


@pytest.mark.parametrize("body", [[], "x", {"data": []}, {"data": None}, {}])
async def test_an_answer_that_is_no_secret_holds_no_key(wire, reader, body):
    wire.answers[f"{NS}/secrets/store"] = (200, body)
    assert reasons(await reader.artifact("team-a", file(wire))) == ["SecretKeyNotFound"]


async def test_a_secret_that_is_no_text_is_none(wire, reader):
    wire.answers[f"{NS}/secrets/store"] = (200, {"data": {"access": "/w==", "secret": 7}})
    assert reasons(await reader.artifact("team-a", file(wire))) == ["SecretKeyNotFound"]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_api_server_that_is_busy_is_asked_again(wire, reader, status):
    wire.answers[f"{NS}/secrets/store"] = (status, {"reason": "Busy"})
    fetched = await reader.artifact("team-a", file(wire))
    assert (reasons(fetched), fetched.again) == (["ApiUnreachable"], True)


def log(wire: Wire, uid: str | None = "u1", *, archived: bool = False) -> LogRef:
    return LogRef(step=0, pod="p", pod_uid=uid, archived=wire.location("wf/main.log") if archived else None)


async def test_the_log_of_a_pod_comes_with_stamps_and_bounds(wire, reader):
    wire.pod("u1")
    fetched = await reader.log("team-a", log(wire), tail_lines=20)
    assert fetched.blobs == (Blob(path="main.log", data=b"2026-11-23T19:42:06Z epoch=1 loss=1\n"),)
    asked = next(a for a in wire.asked if "/log" in a)
    assert {"container=main", "timestamps=true", "limitBytes=10485760", "tailLines=20"} <= set(
        asked.split("?")[1].split("&")
    )


async def test_a_pod_of_the_same_name_is_never_taken_for_it(wire, reader):
    wire.pod("another")
    fetched = await reader.log("team-a", log(wire))
    assert (fetched.blobs, reasons(fetched), fetched.present) == ((), ["LogGone"], False)
    assert not any("/log" in a for a in wire.asked)


async def test_nor_is_one_that_takes_the_name_while_the_log_is_read(wire, reader):
    uids = iter(["u1", "another"])
    wire.pod("u1")
    wire.answers[f"{NS}/pods/p"] = (200, lambda: {"metadata": {"uid": next(uids)}})
    assert reasons(await reader.log("team-a", log(wire))) == ["LogGone"]


@pytest.mark.parametrize("uid", ["u1", None])
async def test_when_the_pod_is_gone_the_archived_log_is_read(wire, reader, uid):
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/main.log"] = (200, b"epoch=1 loss=1\nepoch=2 loss=0.5\n")
    fetched = await reader.log("team-a", log(wire, uid, archived=True), tail_lines=1)
    assert (fetched.blobs, reasons(fetched)) == ((Blob(path="main.log", data=b"epoch=2 loss=0.5\n"),), [])


async def test_an_empty_archived_log_is_a_log(wire, reader):
    wire.secret(access="AKIATEST", secret="CANARY")
    wire.answers["/b/wf/main.log"] = (200, b"")
    fetched = await reader.log("team-a", log(wire, archived=True))
    assert (fetched.blobs, fetched.present) == ((Blob(path="main.log", data=b""),), True)


async def test_a_log_that_is_forbidden_names_what_to_grant(wire, reader):
    wire.pod("u1")
    wire.answers[f"{NS}/pods/p/log"] = (403, {"reason": "Forbidden", "message": "CANARY"})
    fetched = await reader.log("team-a", log(wire))
    assert (reasons(fetched), fetched.again) == (["LogForbidden"], True)
    assert "pods/log" in fetched.notes[0].message


@pytest.mark.parametrize(("status", "again"), [(400, False), (500, True)])
async def test_a_log_that_the_node_has_not_is_noted(wire, reader, status, again):
    wire.pod("u1")
    wire.answers[f"{NS}/pods/p/log"] = (status, {"reason": "BadRequest", "message": "CANARY"})
    fetched = await reader.log("team-a", log(wire))
    assert (reasons(fetched), fetched.again) == (["LogUnavailable"], again)
