"""What a store may do that a good one never does: hang, answer 503, redirect, lie about sizes, be where none may be.

A real S3 store is in tests/cluster/test_stores.py.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from aiohttp import web

from pipetrail.readers import Fetched
from pipetrail.readers.stores import Credentials, Limits, Stores, last_lines
from pipetrail.readers.transport import Refused, Transport, check_host
from pipetrail.sources import AzureLocation, GcsLocation, S3Location, SecretKey, Unreadable
from pipetrail.targets.addresses import ANYWHERE, REFUSING

KEYS = Credentials(access_key="AKIATEST", secret_key="CANARY-secret", session_token="CANARY-token")


class Stub:
    """An HTTP server on loopback that does what a test says and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.missing

    async def missing(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return await self.answer(request)

    def says(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

        self.answer = answer

    def location(self, key: str = "wf/pod/metrics.json", **rest) -> S3Location:
        return S3Location(
            endpoint=f"127.0.0.1:{self.port}", bucket="b", key=key, insecure=True,
            access_key=SecretKey(name="store", key="access"), **rest,
        )  # fmt: skip

    port = 0


@pytest_asyncio.fixture
async def stub() -> AsyncIterator[Stub]:
    made = Stub()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def stores() -> AsyncIterator[Stores]:
    made = Stores(Transport(timeout_s=1.0), Limits(object_bytes=1000, log_bytes=100, artifact_s=5.0))
    yield made
    await made.close()


def reasons(fetched: Fetched) -> list[str]:
    assert "CANARY" not in repr(fetched)
    return [note.reason for note in fetched.notes]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_store_that_is_busy_or_broken_is_asked_again_later(stub, stores, status):
    stub.says(status)
    fetched = await stores.fetch(stub.location(), KEYS)
    assert (reasons(fetched), fetched.present, fetched.again) == (["StoreUnreachable"], None, True)
    assert len(stub.asked) == 1  # retrying is the caller's decision


async def test_a_store_that_hangs_is_given_up(stub, stores):
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    stub.answer = hang
    fetched = await stores.fetch(stub.location(), KEYS)
    assert (reasons(fetched), fetched.again) == (["StoreUnreachable"], True)
    assert "no answer in time" in fetched.notes[0].message


async def test_a_body_that_stalls_is_given_up(stub, stores):
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "500"})
        await response.prepare(request)
        if request.method == "GET":
            await response.write(b"x")
            await asyncio.sleep(30)
        return response

    stub.answer = stall
    assert reasons(await stores.fetch(stub.location(), KEYS)) == ["StoreUnreachable"]


async def test_nobody_listening_is_unreachable(stores):
    location = S3Location(endpoint="127.0.0.1:1", bucket="b", key="k", insecure=True)
    fetched = await stores.fetch(location)
    assert (reasons(fetched), fetched.again) == (["StoreUnreachable"], True)


async def test_a_name_that_does_not_resolve_is_unreachable(stores):
    fetched = await stores.fetch(S3Location(endpoint="store.invalid", bucket="b", key="k"))
    assert (reasons(fetched), fetched.again) == (["StoreUnreachable"], True)


async def test_plain_http_where_tls_is_asked_for_is_unreachable(stub, stores):
    location = S3Location(endpoint=f"127.0.0.1:{stub.port}", bucket="b", key="k", insecure=False)
    assert reasons(await stores.fetch(location)) == ["StoreUnreachable"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(stub, stores, status):
    stub.says(status, Location=f"http://127.0.0.1:{stub.port}/elsewhere")
    fetched = await stores.fetch(stub.location(), KEYS)
    assert reasons(fetched) == ["StoreRefused"]
    assert [request.path for request in stub.asked] == ["/b/wf/pod/metrics.json"]


@pytest.mark.parametrize("keys", [KEYS, Credentials()], ids=["signed", "anonymous"])
async def test_no_redirect_is_followed_when_a_folder_is_listed(stub, stores, keys):
    async def answer(request: web.Request) -> web.StreamResponse:
        if "list-type" not in request.query:
            return web.Response(status=404)
        return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{stub.port}/elsewhere"})

    stub.answer = answer
    assert reasons(await stores.fetch(stub.location("folder"), keys)) == ["StoreRefused"]
    assert [(request.method, request.path) for request in stub.asked] == [("HEAD", "/b/folder"), ("GET", "/b")]


async def test_a_listing_goes_on_until_the_store_says_that_it_ends_or_says_the_same_again(stub, stores):
    def page(keys: list[str], following: str) -> bytes:
        found = "".join(f"<Contents><Key>{k}</Key><Size>1</Size></Contents>" for k in keys)
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{following}</NextContinuationToken>"
        return f"<ListBucketResult><EncodingType>url</EncodingType>{found}{more}</ListBucketResult>".encode()

    pages = {"": page(["folder/a%20b%2B.json", "folder/"], "t&amp;1"), "t&1": page(["folder/c&amp;d.json"], "t&amp;1")}

    async def answer(request: web.Request) -> web.StreamResponse:
        if "list-type" in request.query:
            return web.Response(body=pages[request.query.get("continuation-token", "")])
        return web.Response(status=404) if request.method == "HEAD" else web.Response(body=b"1")

    stub.answer = answer
    fetched = await stores.fetch(stub.location("folder"), KEYS)
    assert [blob.path for blob in fetched.blobs] == ["a b+.json", "c&d.json"]


@pytest.mark.parametrize("body", [b"", b"<html>no list</html>", b"\xff<Contents><Key>folder/x</Key></Contents>"])
async def test_what_is_no_listing_lists_nothing(stub, stores, body):
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body) if "list-type" in request.query else web.Response(status=404)

    stub.answer = answer
    assert await stores.fetch(stub.location("folder"), KEYS) == Fetched(present=False)


async def test_a_folder_is_not_listed_at_an_azure_endpoint_that_is_not_microsofts(stub, stores):
    location = AzureLocation(endpoint=f"http://127.0.0.1:{stub.port}", container="c", key="folder")
    assert reasons(await stores.fetch(location, Credentials(account_key="Q0FOQVJZ"))) == ["StoreRefused"]
    assert [request.method for request in stub.asked] == ["HEAD"]


async def test_a_region_that_the_store_names_is_used(stub, stores):
    async def answer(request: web.Request) -> web.StreamResponse:
        if "%2Feu-west-1%2F" not in request.raw_path and "/eu-west-1/" not in request.raw_path:
            return web.Response(status=400, headers={"x-amz-bucket-region": "eu-west-1"})
        return web.Response(body=b"1")

    stub.answer = answer
    assert [b.data for b in (await stores.fetch(stub.location(), KEYS)).blobs] == [b"1"]


async def test_a_refusal_says_what_to_grant(stub, stores):
    stub.says(403)
    fetched = await stores.fetch(stub.location(), KEYS)
    assert (reasons(fetched), fetched.present, fetched.again) == (["StoreForbidden"], None, False)
    assert "the key in Secret 'store' needs s3:GetObject" in fetched.notes[0].message


async def test_a_repository_without_key_is_asked_anonymously_and_never_as_ourselves(stub, stores, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "CANARY-ours")
    stub.says(body=b"1")
    location = S3Location(endpoint=f"127.0.0.1:{stub.port}", bucket="b", key="a b/ö.json", insecure=True)
    assert [b.path for b in (await stores.fetch(location)).blobs] == ["ö.json"]
    assert all("CANARY" not in request.raw_path + repr(request.headers) for request in stub.asked)
    assert {request.path_qs for request in stub.asked} == {"/b/a%20b/%C3%B6.json"}


async def test_nothing_of_the_environment_goes_into_a_signed_request(stub, stores, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "CANARY-ours")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    stub.says(body=b"1")
    keys = Credentials(access_key="AKIATEST", secret_key="s")
    assert [b.data for b in (await stores.fetch(stub.location(), keys)).blobs] == [b"1"]
    assert all("CANARY" not in request.raw_path and "AKIATEST" in request.raw_path for request in stub.asked)


async def test_what_is_too_big_is_not_downloaded(stub, stores):
    stub.says(body=b"x" * 1001)
    fetched = await stores.fetch(stub.location(), KEYS)
    assert (reasons(fetched), fetched.present, fetched.size, fetched.blobs) == (["TooLarge"], True, 1001, ())
    assert [request.method for request in stub.asked] == ["HEAD"]


async def test_a_store_that_lies_about_the_size_is_stopped(stub, stores):
    async def lie(request: web.Request) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": "10"})
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 100)
        return response

    stub.answer = lie
    fetched = await stores.fetch(stub.location(), KEYS)
    assert (reasons(fetched), fetched.blobs) == (["TooLarge"], ())


async def test_only_the_size_is_asked_for_if_no_more_is_wanted(stub, stores):
    stub.says(body=b"x" * 5000)
    fetched = await stores.fetch(stub.location(), KEYS, head_only=True)
    assert (fetched, [request.method for request in stub.asked]) == (Fetched(size=5000), ["HEAD"])


async def test_a_plain_file_has_the_name_it_had_in_the_pod(stub, stores):
    stub.says(body=b"1")
    fetched = await stores.fetch(stub.location("any/key-7"), KEYS, path="/tmp/metrics.json")
    assert [b.path for b in fetched.blobs] == ["metrics.json"]


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "fd00:ec2::254",
        "0.0.0.0", "100.100.100.200", "::", "224.0.0.1", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
async def test_no_store_lives_there(address):
    with pytest.raises(Refused):
        await check_host(address, 80, ANYWHERE.of_stores())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "1.1.1.1", "2606:4700::1111"])
async def test_a_store_may_live_there(address):
    await check_host(address, 80, ANYWHERE.of_stores())


async def test_loopback_can_be_refused_too():
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        with pytest.raises(Refused):
            await check_host(address, 80, REFUSING.of_stores())


@pytest.mark.parametrize(
    "endpoint",
    [
        "169.254.169.254", "http://169.254.169.254", "169.254.169.254:80", "[fe80::1]:80", "2852039166", "0xa9fea9fe",
        "metadata.google.internal", "METADATA.google.internal.", "a@b", "a/b", "a b", "file:///etc", "", "a?b", "a#b",
    ],
)  # fmt: skip
async def test_an_address_that_no_store_may_have_is_refused(stores, endpoint):
    for key in (KEYS, Credentials()):
        fetched = await stores.fetch(S3Location(endpoint=endpoint or "[]", bucket="b", key="k", insecure=True), key)
        assert (reasons(fetched), fetched.present, fetched.again) == (["StoreRefused"], None, False)


async def test_loopback_is_refused_if_the_operator_says_so(stub):
    stores = Stores(Transport(addresses=REFUSING.of_stores()))
    fetched = await stores.fetch(stub.location(), KEYS)
    await stores.close()
    assert (reasons(fetched), stub.asked) == (["StoreRefused"], [])


@pytest.mark.parametrize("key", ["", "/", "a//b", "a/../b"])
async def test_a_key_that_cannot_be_signed_is_noted(stub, stores, key):
    fetched = await stores.fetch(stub.location(key), KEYS)
    assert (reasons(fetched), fetched.present) == (["StoreKeyUnusable"], None)


async def test_an_artifact_that_is_never_fetched_says_why(stores):
    fetched = await stores.fetch(Unreadable(reason="HttpArtifact", message="an http artifact is not fetched"))
    assert (reasons(fetched), fetched.present) == (["HttpArtifact"], None)


async def test_an_azure_blob_is_asked_for_with_a_signature_of_its_account(stub, stores):
    stub.says(body=b"1")
    location = AzureLocation(endpoint=f"http://127.0.0.1:{stub.port}", container="c", key="m.json")
    fetched = await stores.fetch(location, Credentials(account_key="Q0FOQVJZ"))
    assert [b.data for b in fetched.blobs] == [b"1"]
    assert [(r.path, "sig" in r.query) for r in stub.asked] == [("/c/m.json", True), ("/c/m.json", True)]


async def test_keys_that_are_none_are_noted(stores):
    azure = AzureLocation(endpoint="https://acct.blob.core.windows.net", container="c", key="m.json")
    assert reasons(await stores.fetch(azure, Credentials(account_key="CANARY not base64"))) == ["StoreKeyUnusable"]
    gcs = GcsLocation(bucket="b", key="m.json")
    assert reasons(await stores.fetch(gcs, Credentials(service_account_key="CANARY"))) == ["StoreKeyUnusable"]
    part = Credentials(service_account_key='{"type": "service_account"}')
    assert reasons(await stores.fetch(gcs, part)) == ["StoreKeyUnusable"]
    odd = '{"type": "service_account", "client_email": "a", "private_key": "CANARY", "private_key_id": "1"}'
    assert reasons(await stores.fetch(gcs, Credentials(service_account_key=odd))) == ["StoreKeyUnusable"]


async def test_a_ca_that_is_none_is_noted(stub, stores):
    fetched = await stores.fetch(stub.location(), Credentials(access_key="a", secret_key="b", ca="CANARY"))
    assert reasons(fetched) == ["StoreKeyUnusable"]


def test_credentials_are_never_printed():
    assert "CANARY" not in f"{KEYS} {KEYS!r} {[KEYS]}"


async def test_of_a_long_archived_log_the_beginning_or_the_end_is_read(stub, stores):
    log = b"".join(b"line %02d\n" % i for i in range(50))

    async def ranged(request: web.Request) -> web.StreamResponse:
        part = request.http_range
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(log))})
        data = log[part]
        return web.Response(
            status=206, body=data, headers={"Content-Range": f"bytes {part.start}-{part.stop - 1}/{len(log)}"}
        )

    stub.answer = ranged
    start = await stores.log(stub.location("main.log"), KEYS)
    assert (start.blobs[0].data, reasons(start), start.size) == (log[:100], ["LogCut"], 400)
    end = await stores.log(stub.location("main.log"), KEYS, tail_lines=3)
    assert (end.blobs[0].data, reasons(end)) == (b"line 47\nline 48\nline 49\n", [])


@pytest.mark.parametrize(
    ("data", "count", "last"),
    [(b"a\nb\nc\n", 2, b"b\nc\n"), (b"a\nb\nc", 2, b"b\nc"), (b"a\n", 5, b"a\n"), (b"", 3, b""), (b"a\nb\n", 0, b"")],
)
def test_the_last_lines(data, count, last):
    assert last_lines(data, count) == last
