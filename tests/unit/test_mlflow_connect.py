"""From a TrackingTarget's backend to a target that calls: every reference is resolved, and what comes out is used."""

import ssl
from pathlib import Path

import msgspec
import pytest
from tests.real.pki import Pki
from tests.real.proxy import Answer, Proxy

from pipetrail import targets
from pipetrail.api import Backend, ConfigMapKeyRef, SecretKeyRef
from pipetrail.targets.addresses import ANYWHERE

VALUES = {"user/name": "ada", "user/pass": "pw", "token/key": "t0ken"}


def backend(address: str, **more) -> Backend:
    return msgspec.convert({"mlflow": {"trackingUri": address, **more}}, Backend)


def secret(name: str, key: str) -> dict[str, str]:
    return {"name": name, "key": key}


async def sent(backend: Backend, proxy: Proxy, ca_pem: str = "") -> str | None:
    """The Authorization header that the first call of `backend`'s target carries."""

    async def resolve(ref: SecretKeyRef | ConfigMapKeyRef) -> str:
        return ca_pem if isinstance(ref, ConfigMapKeyRef) else VALUES[f"{ref.name}/{ref.key}"]

    target = await targets.connect(backend, resolve, targets.Site(namespace="team-a", addresses=ANYWHERE))
    try:
        await target.check()
    finally:
        await target.close()
    return proxy.log[0].headers.get("Authorization")


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({}, None),
        ({"auth": {"bearerTokenSecretRef": secret("token", "key")}}, "Bearer t0ken"),
        (
            {
                "auth": {
                    "basic": {"usernameSecretRef": secret("user", "name"), "passwordSecretRef": secret("user", "pass")}
                }
            },
            "Basic YWRhOnB3",
        ),
    ],
)
async def test_each_way_to_log_in_is_used(auth: dict, header: str | None) -> None:
    async with Proxy("http://127.0.0.1:9", lambda _: Answer(200, b"{}")) as proxy:
        assert await sent(backend(proxy.url, **auth), proxy) == header


async def test_a_ca_from_a_config_map_is_trusted(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    tls: ssl.SSLContext = pki.server("127.0.0.1")
    async with Proxy("http://127.0.0.1:9", lambda _: Answer(200, b"{}"), tls=tls) as proxy:
        named = {"caBundleRef": {"configMapKeyRef": secret("ca", "ca.crt")}}
        assert await sent(backend(proxy.url, **named), proxy, pki.ca_pem) is None
        assert len(proxy.log) == 2


async def test_the_contract_alone_brings_no_http_along() -> None:
    import asyncio
    import sys

    code = "import sys, pipetrail.targets, pipetrail.targets.target; print('aiohttp' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "False"
