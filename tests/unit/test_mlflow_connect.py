"""From a TrackingTarget's backend to a target that calls: every reference is resolved, and what comes out is used."""

import asyncio
import ssl
from pathlib import Path

import msgspec
import pytest
from tests.real.pki import Pki
from tests.real.proxy import Answer, Proxy

from pipetrail import targets
from pipetrail.api import Backend, ConfigMapKeyRef, SecretKeyRef
from pipetrail.targets.addresses import ANYWHERE
from pipetrail.targets.target import Batch, File, Handle

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


@pytest.mark.parametrize("root", ["file:///volume/experiment/run/artifacts", "s3://bucket/1/run/artifacts"])
@pytest.mark.parametrize(("namespace", "writes"), [("team-a", False), ("", True)])
async def test_with_our_own_credentials_files_are_written_for_a_cluster_target_alone(
    root: str, namespace: str, writes: bool
) -> None:
    """The tracker says where artifacts lie: for one namespace's it could name another's store, or a folder of ours."""
    async with Proxy("http://127.0.0.1:9", lambda _: Answer(200, b"{}")) as proxy:
        site = targets.Site(namespace=namespace, addresses=ANYWHERE)
        target = await targets.connect(backend(proxy.url), _nothing, site)
        workers: list[object] = []
        spawned = asyncio.create_subprocess_exec

        async def spawning(*args, **kwargs):
            workers.append(args)
            return await spawned("true", **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "create_subprocess_exec", spawning)
            file = File(path="pipetrail/artifacts.json", media_type="application/json", data=b"{}")
            receipt = await target.write(Handle(id="1", artifacts=root), Batch(files=(file,)))
        await target.close()
    assert bool(workers) == writes
    (change,) = receipt.changes
    assert (change.reason, "ClusterTrackingTarget alone" in change.detail) == ("FileNotUploaded", not writes)


async def _nothing(_: SecretKeyRef | ConfigMapKeyRef) -> str:
    raise AssertionError("no reference stands there")


async def test_the_contract_alone_brings_no_http_along() -> None:
    import sys

    code = "import sys, pipetrail.targets, pipetrail.targets.target; print('aiohttp' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "False"
