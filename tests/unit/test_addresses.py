"""Which addresses are called: what a socket is about to connect to decides, whatever its name was and is."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.real.mlflow import free_port

from pipetrail import targets
from pipetrail.api import Backend
from pipetrail.targets import addresses
from pipetrail.targets.addresses import ANYWHERE, REFUSING, Addresses
from pipetrail.targets.target import Retry, TargetError, Unusable

SPECIAL = {
    "127.0.0.1": "loopback", "127.8.9.1": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback",
    "64:ff9b::7f00:1": "loopback", "2002:7f00:1::": "loopback",
    "169.254.169.254": "link-local", "::ffff:169.254.169.254": "link-local", "fe80::1": "link-local",
    "fe80::1%eth0": "link-local", "fd00:ec2::254": "link-local", "100.100.100.200": "link-local",
    "168.63.129.16": "link-local", "192.0.0.192": "link-local", "0.0.0.0": "unspecified", "0.1.2.3": "unspecified",
    "::": "unspecified", "224.0.0.1": "multicast", "255.255.255.255": "multicast", "ff02::1": "multicast",
}  # fmt: skip
ORDINARY = ("10.0.0.1", "192.168.1.1", "172.16.0.1", "1.1.1.1", "fd12::1", "2606:4700::1111", "::ffff:10.0.0.1")
NUMBERS = ("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "127.0.0.01", "")


@pytest.mark.parametrize(("address", "kind"), SPECIAL.items())
def test_what_is_special_is_refused_and_allowed_by_a_network_that_holds_it(address: str, kind: str) -> None:
    assert REFUSING.refusal(address, 443).startswith(kind)
    assert ANYWHERE.refusal(address, 443) == ""


@pytest.mark.parametrize("address", ORDINARY)
def test_what_trackers_have_is_called(address: str) -> None:
    assert REFUSING.refusal(address, 443) == ""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_that_only_libc_would_understand_is_refused(number: str) -> None:
    assert Addresses(allowed=(ip_network("10.0.0.0/8"),)).refusal(number, 80) == "not written as an IP address"


def test_the_api_server_is_refused_within_a_range_and_allowed_by_its_very_address() -> None:
    server = frozenset({(ip_address("10.96.0.1"), None), (ip_address("10.0.0.5"), 6443)})
    asked = [("10.96.0.1", 443), ("10.96.0.1", 80), ("10.0.0.5", 6443), ("10.0.0.5", 5000), ("::ffff:10.0.0.5", 6443)]

    def refused(*allowed: str) -> list[bool]:
        judge = Addresses(allowed=addresses.networks(allowed), api_server=server)
        return [judge.refusal(address, port) == "the API server's" for address, port in asked]

    assert refused() == [True, True, True, False, True]
    assert refused("10.0.0.0/8") == [True, True, True, False, True]
    assert refused("10.96.0.1", "10.0.0.5/32") == [False] * 5


def test_of_what_is_special_a_store_may_have_loopback_at_most() -> None:
    judge = addresses.Addresses(allowed=addresses.networks(("0.0.0.0/0", "::/0", "169.254.169.254"))).of_stores()
    allowed = {address for address in SPECIAL if not judge.refusal(address, 80)}
    assert allowed == {address for address, kind in SPECIAL.items() if kind == "loopback"}
    narrow = Addresses(allowed=addresses.networks(("127.0.0.0/24", "10.0.0.0/8"))).of_stores()
    assert narrow.allowed == (ip_network("127.0.0.0/24"),)


async def test_the_api_server_is_known_by_the_kubeconfig_and_in_a_pod_by_its_service_too() -> None:
    outside = await addresses.known((), "https://localhost:6443", {})
    assert (ip_address("127.0.0.1"), 6443) in outside.api_server
    inside = await addresses.known(("10.0.0.0/8",), "https://10.96.0.1:443", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert {(ip_address("10.96.0.1"), 443), (ip_address("10.96.0.1"), None)} <= inside.api_server
    assert inside.refusal("10.96.0.1", 8080) == "the API server's"


# --- what an MLflow target does with it -------------------------------------------------------------------------------


@asynccontextmanager
async def canary() -> AsyncIterator[tuple[int, list[str]]]:
    """A server on all of this machine's addresses that counts connections: (port, one entry for each)."""
    met: list[str] = []

    async def meet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append("a connection")
        writer.close()

    dual = socket.has_dualstack_ipv6()
    listening = socket.create_server(
        ("::" if dual else "0.0.0.0", 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual
    )
    server = await asyncio.start_server(meet, sock=listening)
    try:
        yield server.sockets[0].getsockname()[1], met
    finally:
        server.close()
        await server.wait_closed()


async def called(address: str, judge: Addresses) -> TargetError:
    async def none(_: Any) -> str:
        raise AssertionError("no reference stands there")

    backend = msgspec.convert({"mlflow": {"trackingUri": address}}, Backend)
    try:
        target = await targets.connect(backend, none, targets.Site(namespace="team-a", addresses=judge))
    except TargetError as error:
        return error
    try:
        with pytest.raises(TargetError) as caught:
            await target.check()
        return caught.value
    finally:
        await target.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.8.9.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]", "0x7f000001", "LOCALHOST"],
)
async def test_no_spelling_of_loopback_is_called_unless_it_is_allowed(host: str) -> None:
    async with canary() as (port, met):
        error = await called(f"http://{host}:{port}", REFUSING)
        assert (type(error), error.reason, met) == (Unusable, "AddressRefused", [])
        assert "--allow-address" in error.message
    async with canary() as (port, met):
        error = await called(f"http://{host}:{port}", ANYWHERE)
        assert (type(error), bool(met)) == (Retry, True)


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "127.1"])
async def test_no_number_that_libc_takes_for_loopback_is_called(host: str) -> None:
    async with canary() as (port, met):
        error = await called(f"http://{host}:{port}", REFUSING)
        assert (isinstance(error, Unusable), met) == (True, [])


async def test_the_api_server_is_not_called_though_its_network_is_allowed() -> None:
    async with canary() as (port, met):
        judge = await addresses.known(("127.0.0.0/8",), f"https://localhost:{port}", {})
        error = await called(f"http://127.0.0.1:{port}", judge)
        assert (error.reason, met) == ("AddressRefused", [])


async def test_a_name_that_leads_elsewhere_when_it_is_called_is_judged_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is an address that is allowed, the second is loopback."""
    answers = iter(["10.255.255.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"])
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return real(next(answers) if host == "tracker.test" else host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    async with canary() as (port, met):
        await REFUSING.judge(f"http://tracker.test:{port}")
        error = await called(f"http://tracker.test:{port}", REFUSING)
        assert (error.reason, met) == ("AddressRefused", [])


async def test_a_redirect_is_not_followed() -> None:
    from aiohttp import web

    async with canary() as (port, met):

        async def away(_: web.BaseRequest) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{port}/"})

        runner = web.ServerRunner(web.Server(away, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        error = await called(f"http://127.0.0.1:{runner.addresses[0][1]}", ANYWHERE)
        await runner.cleanup()
        assert (error.reason, met) == ("NotMlflow", [])


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up again, where nobody judges it."""
    async with canary() as (proxy, met):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        error = await called(f"http://127.0.0.1:{free_port()}", ANYWHERE)
        assert (type(error), met) == (Retry, [])


JUDGED: list[tuple[str, Callable[[], Any], str]] = [
    ("http://127.0.0.1:5000", lambda: Unusable, "AddressRefused"),
    ("https://localhost", lambda: Unusable, "AddressRefused"),
    ("http://2130706433", lambda: Unusable, "AddressRefused"),
    ("http://0177.0.0.1/x", lambda: Unusable, "AddressRefused"),
    ("http://[::ffff:169.254.169.254]/latest", lambda: Unusable, "AddressRefused"),
    ("http://no-such-host.invalid", lambda: Retry, "Unreachable"),
]


@pytest.mark.parametrize(("url", "kind", "reason"), JUDGED)
async def test_an_address_can_be_judged_for_a_client_of_its_own(url: str, kind: Callable[[], Any], reason: str) -> None:
    with pytest.raises(TargetError) as caught:
        await REFUSING.judge(url)
    assert (type(caught.value), caught.value.reason) == (kind(), reason)
    if reason == "AddressRefused":
        await ANYWHERE.judge(url)


async def test_every_connection_of_a_connector_is_made_by_the_judge() -> None:
    """aiohttp's own promise, on which all of this stands: no connection without the socket factory."""
    asked: list[Any] = []

    class Watching(Addresses, frozen=True):
        def socket(self, wanted: tuple[Any, ...]) -> socket.socket:
            asked.append(wanted[4][:2])
            return super().socket(wanted)

    async with canary() as (port, met):
        connector = aiohttp.TCPConnector(socket_factory=Watching(allowed=ANYWHERE.allowed).socket)
        async with aiohttp.ClientSession(connector=connector) as session:
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"http://{host}:{port}")
        assert {where for where in asked if where[0] == "127.0.0.1"} == {("127.0.0.1", port)}
        assert len(met) >= 2


async def test_an_address_is_known_though_all_threads_wait_for_names():
    """A resolver that hangs holds the threads of the event loop; a tracker that is named by its address needs none."""
    loop, hung = asyncio.get_running_loop(), threading.Event()
    threads = ThreadPoolExecutor(1)
    loop.set_default_executor(threads)
    waiting = loop.run_in_executor(None, hung.wait)
    try:
        async with asyncio.timeout(2):
            assert await addresses.resolved("127.0.0.1") == ("127.0.0.1",)
            assert await addresses.resolved("[::1]") == ("::1",)
    finally:
        hung.set()
        await waiting
