"""What each way to fail means: one loopback server that answers as measured ones did, and our target in front of it."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import formatdate

import aiohttp
import msgspec
import pytest
from tests.real.mlflow import free_port
from tests.real.pki import Pki
from tests.real.proxy import Action, Answer, Drop, Proxy, Seen, Stall

from pipetrail.targets.mlflow.auth import Basic, Bearer, NoAuth
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.mlflow.wire import MOST_BYTES, after_s
from pipetrail.targets.target import (
    Batch,
    Handle,
    Metric,
    Refused,
    Retry,
    TargetError,
    TrackerRun,
    Unauthorised,
    Unusable,
)

NOWHERE = "http://127.0.0.1:9"
HTML = {"Content-Type": "text/html"}
RUN = TrackerRun(
    key="c/u", root="c/u", experiment="e", name="n", status="Running", started=datetime(2026, 1, 1, tzinfo=UTC)
)
HANDLE = Handle(id="0" * 32, experiment_id="1", artifacts="mlflow-artifacts:/1/0/artifacts")
EXPERIMENT = msgspec.json.encode({"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}})
SECRET = "s3cr3t-token-value"


def trouble(code: str, message: str = "") -> bytes:
    return msgspec.json.encode({"error_code": code, "message": message})


@pytest.fixture
async def server() -> AsyncIterator[Proxy]:
    """Answers by script; nothing real is behind it. Experiments are there."""
    async with Proxy(NOWHERE) as running:
        yield running


def answering(server: Proxy, action: Action, tail: str = "") -> None:
    def decide(seen: Seen) -> Action:
        if seen.ends("get-by-name") and tail:
            return Answer(200, EXPERIMENT)
        return action if seen.ends(tail) else Answer(200, b"{}")

    server.decide = decide


async def caught(call) -> TargetError:
    with pytest.raises(TargetError) as error:
        await call
    return error.value


@pytest.fixture
async def target(server: Proxy) -> AsyncIterator[MlflowTarget]:
    made = MlflowTarget(server.url)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, trouble("INTERNAL_ERROR")),
        (502, b"<html>bad gateway"),
        (503, trouble("TEMPORARILY_UNAVAILABLE")),
        (504, b""),
    ],
)
async def test_a_5xx_on_a_create_is_doubtful(server: Proxy, target: MlflowTarget, status: int, body: bytes) -> None:
    answering(server, Answer(status, body), "runs/create")
    error = await caught(target.open(RUN, None))
    assert isinstance(error, Retry)
    assert error.doubtful
    assert len(server.calls("runs/create")) == 1


@pytest.mark.parametrize(
    "action",
    [Drop(), Answer(200, b"<<<"), Answer(200, b"<html>log in", HTML), Answer(200, b"[]"), Answer(200, b"")],
    ids=repr,
)
async def test_a_broken_answer_to_a_create_is_doubtful(server: Proxy, target: MlflowTarget, action: Action) -> None:
    answering(server, action, "runs/create")
    error = await caught(target.open(RUN, None))
    assert isinstance(error, Retry)
    assert error.doubtful


@pytest.mark.parametrize("status", [408, 425, 429])
async def test_what_was_turned_away_at_the_door_is_not_doubtful(
    server: Proxy, target: MlflowTarget, status: int
) -> None:
    answering(server, Answer(status), "runs/create")
    error = await caught(target.open(RUN, None))
    assert isinstance(error, Retry)
    assert not error.doubtful


@pytest.mark.parametrize("action", [Answer(500), Answer(200, b"<<<"), Drop()], ids=repr)
@pytest.mark.parametrize(
    ("tail", "batch"), [("log-batch", Batch(tags={"a": "b"})), ("runs/update", Batch(status="Failed"))]
)
async def test_a_write_of_unknown_effect_is_doubtful(
    server: Proxy, target: MlflowTarget, action: Action, tail: str, batch: Batch
) -> None:
    answering(server, action, tail)
    error = await caught(target.write(HANDLE, batch))
    assert isinstance(error, Retry)
    assert error.doubtful


async def test_a_doubt_about_the_experiment_is_none_about_the_run(server: Proxy, target: MlflowTarget) -> None:
    answering(server, Drop())
    error = await caught(target.open(RUN, None))
    assert isinstance(error, Retry)
    assert not error.doubtful


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_heeded_in_both_forms(server: Proxy, target: MlflowTarget, status: int) -> None:
    for text, least, most in (("7", 7, 7), (formatdate(time.time() + 30, usegmt=True), 20, 30)):
        answering(server, Answer(status, b"", {"Retry-After": text}))
        error = await caught(target.find(RUN))
        assert isinstance(error, Retry)
        assert error.after_s is not None
        assert least <= error.after_s <= most


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("999999999", 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("", None),
        ("-1", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_bounded(text: str, seconds: float | None) -> None:
    assert after_s({"Retry-After": text}) == seconds


@pytest.mark.parametrize(
    "message",
    [
        "QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00",
        "(sqlite3.OperationalError) database is locked",
        "(psycopg.errors.DeadlockDetected) deadlock detected",
    ],
)
async def test_an_exhausted_database_is_400_and_passes(server: Proxy, target: MlflowTarget, message: str) -> None:
    answering(server, Answer(400, trouble("BAD_REQUEST", message)), "log-batch")
    error = await caught(target.write(HANDLE, Batch(tags={"a": "b"})))
    assert isinstance(error, Retry)
    assert len(server.calls("log-batch")) == 1


async def test_what_a_database_cannot_hold_is_400_and_stays(server: Proxy, target: MlflowTarget) -> None:
    said = "(psycopg.errors.StringDataRightTruncation) value too long\n[SQL: INSERT INTO tags VALUES ('topsecret')]"
    answering(server, Answer(400, trouble("BAD_REQUEST", said)), "log-batch")
    receipt = await target.write(HANDLE, Batch(tags={"a": "b"}))
    (change,) = receipt.changes
    assert (change.item, change.key, change.reason) == ("tag", "a", "Rejected")
    assert change.detail == "(psycopg.errors.StringDataRightTruncation) value too long"


@pytest.mark.parametrize(
    ("action", "kind", "reason"),
    [
        (Answer(401, b"<html>You are not authenticated", HTML), Unauthorised, "AuthenticationFailed"),
        (Answer(403, b"Permission denied"), Unauthorised, "PermissionDenied"),
        (Answer(403, b"Invalid Host header - possible DNS rebinding attack detected"), Unusable, "InvalidHostHeader"),
        (Answer(404, b"<!doctype html><title>404", HTML), Unusable, "NotMlflow"),
        (Answer(404, b'{"detail":"Not Found"}'), Unusable, "NotMlflow"),
        (Answer(404, trouble("ENDPOINT_NOT_FOUND")), Unusable, "NotMlflow"),
        (Answer(405, b""), Unusable, "NotMlflow"),
        (Answer(501, b"<html>Unsupported method", HTML), Unusable, "NotMlflow"),
        (Answer(200, b"  <!DOCTYPE html><h1>Welcome", HTML), Unusable, "NotMlflow"),
        (Answer(302, b"", {"Location": "https://login.example.com/?token=abc"}), Unusable, "NotMlflow"),
        (Answer(503, b""), Retry, "Unreachable"),
        (Answer(429, b""), Retry, "RateLimited"),
        (Drop(), Retry, "Unreachable"),
    ],
    ids=lambda x: repr(x)[:60],
)  # fmt: skip
async def test_a_look_at_the_target_names_what_is_wrong(
    server: Proxy, target: MlflowTarget, action: Action, kind: type, reason: str
) -> None:
    answering(server, action)
    error = await caught(target.check())
    assert (type(error), error.reason) == (kind, reason)
    assert "token=abc" not in error.message
    if reason == "InvalidHostHeader":
        assert "--allowed-hosts 127.0.0.1:" in error.message


async def test_a_server_that_hides_its_version_is_fine(server: Proxy, target: MlflowTarget) -> None:
    answering(server, Answer(404, b"no such page"), "/version")
    assert (await target.check()).version == ""


async def test_a_redirect_is_never_followed(server: Proxy) -> None:
    async with Proxy(NOWHERE, lambda _: Answer(200, b"{}")) as elsewhere:
        answering(server, Answer(307, b"", {"Location": elsewhere.url + "/"}))
        target = MlflowTarget(server.url, auth=Bearer(token=SECRET))
        assert (await caught(target.check())).reason == "NotMlflow"
        await target.close()
        assert elsewhere.log == []


async def test_a_refused_connection_is_not_doubtful() -> None:
    target = MlflowTarget(f"http://127.0.0.1:{free_port()}")
    error = await caught(target.check())
    assert isinstance(error, Retry)
    assert not error.doubtful
    await target.close()


async def test_an_unknown_host_is_named() -> None:
    target = MlflowTarget("http://no-such-host.invalid:5000")
    error = await caught(target.check())
    assert error.reason == "Unreachable"
    assert "no-such-host.invalid" in error.message
    await target.close()


async def test_a_stall_ends_with_the_time_out_and_is_doubtful_for_a_create(server: Proxy) -> None:
    def hasty(_tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3))

    target = MlflowTarget(server.url, session_factory=hasty)
    answering(server, Stall(30), "runs/create")
    error = await caught(target.open(RUN, None))
    assert isinstance(error, Retry)
    assert error.doubtful
    await target.close()


async def test_an_answer_without_end_is_cut_off(server: Proxy, target: MlflowTarget) -> None:
    answering(server, Answer(200, b" " * (MOST_BYTES + 1)))
    assert isinstance(await caught(target.read(HANDLE)), Refused)


async def test_what_does_not_speak_http_is_not_mlflow() -> None:
    async def gibberish(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(gibberish, "127.0.0.1", 0) as other:
        target = MlflowTarget(f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
        assert (await caught(target.check())).reason == "NotMlflow"
        await target.close()


@pytest.mark.parametrize("auth", [Bearer(token=SECRET), Basic(user="ada", password=SECRET)], ids=["bearer", "basic"])
async def test_no_secret_shows_anywhere(server: Proxy, auth: Bearer | Basic) -> None:
    target = MlflowTarget(server.url, auth=auth)

    def echo(seen: Seen) -> Action:
        return Answer(500, f"you sent {seen.headers['Authorization']} and {SECRET}".encode())

    server.decide = echo
    error = await caught(target.open(RUN, None))
    seen = server.log[0].headers["Authorization"]
    texts = (repr(auth), str(auth), repr(target), repr(error), error.message, repr(vars(error)), repr(error.__cause__))
    for text in texts:
        assert SECRET not in text
        assert seen.split()[1] not in text
    assert "<redacted>" in error.message
    await target.close()


@pytest.mark.parametrize("token", ["", "with space\n", "tökén", "a\x00b"])
async def test_a_token_that_no_header_can_hold_is_said_so(token: str) -> None:
    with pytest.raises(Unauthorised) as error:
        MlflowTarget(NOWHERE, auth=Bearer(token=token))
    assert error.value.reason == "AuthenticationFailed"


async def test_credentials_go_along(server: Proxy) -> None:
    server.decide = lambda _: Answer(200, b"{}")
    for auth, header in (
        (NoAuth(), None), (Bearer(token="abc"), "Bearer abc"), (Basic(user="a", password="b:é"), "Basic YTpiOsOp"),
    ):  # fmt: skip
        target = MlflowTarget(server.url, auth=auth)
        await target.check()
        assert server.log[-1].headers.get("Authorization") == header
        await target.close()


@pytest.mark.parametrize("path", ["", "/", "/mlflow", "/mlflow/", "/a/b%20c"])
async def test_a_path_in_the_address_is_kept(server: Proxy, path: str) -> None:
    server.decide = lambda _: Answer(200, b"{}")
    target = MlflowTarget(server.url + path)
    await target.check()
    assert [s.path for s in server.log] == [
        path.rstrip("/") + "/api/2.0/mlflow/experiments/search",
        path.rstrip("/") + "/version",
    ]
    await target.close()


@pytest.mark.parametrize("address", ["http://", "http://h:99999", "nonsense", "http://[::1"])
async def test_what_is_no_address_is_said_so(address: str) -> None:
    with pytest.raises(Unusable) as error:
        MlflowTarget(address)
    assert error.value.reason == "NotMlflow"


async def test_calls_under_way_end_before_the_connections_go(server: Proxy, target: MlflowTarget) -> None:
    released = asyncio.Event()

    async def hold(_seen: Seen, _status: int) -> None:
        await released.wait()

    server.on_request = hold
    server.decide = lambda _: Answer(200, b"{}")
    call = asyncio.create_task(target.write(HANDLE, Batch(tags={"a": "b"})))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(target.close())
    await asyncio.sleep(0.1)
    assert not closing.done()
    released.set()
    await call
    await closing
    error = await caught(target.write(HANDLE, Batch(tags={"a": "b"})))
    assert isinstance(error, Retry)
    assert not error.doubtful


async def test_a_metric_that_was_not_fitted_never_leaves(server: Proxy, target: MlflowTarget) -> None:
    server.decide = lambda _: Answer(200, b"{}")
    bad = [
        Metric(key="a", value=float("inf"), step=0, time_ms=0), Metric(key="a", value=1.0, step=2**63, time_ms=0),
        Metric(key="a", value=1.0, step=0, time_ms=-1), Metric(key="a", value=10**400, step=0, time_ms=0),
    ]  # fmt: skip
    for metric in bad:
        receipt = await target.write(HANDLE, Batch(metrics=(metric,), tags={"t": "v"}))
        assert [(c.item, c.key, c.reason) for c in receipt.changes] == [("metric", "a", "Rejected")]
        assert b'"metrics"' not in server.log[-1].body


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


async def test_a_ca_of_ones_own_is_trusted_and_no_other(pki: Pki) -> None:
    async with Proxy(NOWHERE, lambda _: Answer(200, b"{}"), tls=pki.server("127.0.0.1")) as server:
        good = MlflowTarget(server.url, ca_pem=pki.ca_pem)
        await good.check()
        await good.close()
        for pem in (None, Pki(pki.folder / "other").ca_pem):
            bad = MlflowTarget(server.url, ca_pem=pem)
            error = await caught(bad.check())
            assert (type(error), error.reason) == (Unusable, "TlsFailed")
            assert "caBundleRef" in error.message
            await bad.close()


async def test_a_certificate_for_another_host_or_of_another_year_fails(pki: Pki) -> None:
    for tls in (pki.server("mlflow.example.com"), pki.server("127.0.0.1", expired=True)):
        async with Proxy(NOWHERE, lambda _: Answer(200, b"{}"), tls=tls) as server:
            target = MlflowTarget(server.url, ca_pem=pki.ca_pem)
            assert (await caught(target.check())).reason == "TlsFailed"
            await target.close()


async def test_https_where_http_is_spoken_says_so(server: Proxy) -> None:
    target = MlflowTarget(server.url.replace("http://", "https://"))
    error = await caught(target.check())
    assert error.reason == "TlsFailed"
    assert "http://" in error.message
    await target.close()


async def test_http_where_https_is_spoken_is_not_mlflow(pki: Pki) -> None:
    async with Proxy(NOWHERE, tls=pki.server("127.0.0.1")) as server:
        target = MlflowTarget(server.url.replace("https://", "http://"))
        assert (await caught(target.check())).reason in ("NotMlflow", "Unreachable")
        await target.close()


@pytest.mark.parametrize(
    "pem", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_bundle_that_is_none_is_said_so(pem: str) -> None:
    with pytest.raises(Unusable) as error:
        MlflowTarget("https://127.0.0.1:1", ca_pem=pem)
    assert error.value.reason == "TlsFailed"
