"""The Lease on a real API server: one holds it, a second one waits, and what ends a holder."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.fixtures import Cluster, Kubectl, connect
from tests.e2e.stage import before_the_api, kubeconfig, starts
from tests.real.operator import Operator
from tests.real.proxy import Pass, Stall

from pipetrail.controller import lease as leases
from pipetrail.controller.bookmarks import leave_early
from pipetrail.controller.lease import Lease, TakenOver
from pipetrail.controller.stream import Pulse
from pipetrail.kube import Kube, KubeError

pytestmark = [pytest.mark.minutes(1), pytest.mark.api]


def path(namespace: str) -> str:
    return f"{leases.LEASES}/{namespace}/leases/pipetrail"


async def spec(kube: Kube, namespace: str) -> Any:
    return (await kube.get(path(namespace)))["spec"]


async def test_the_first_holds_it_and_a_restart_with_the_same_identity_takes_it_at_once(kube, namespace):
    await Lease(kube, namespace, "pipetrail", "one").acquire()
    first = await spec(kube, namespace)
    again = Lease(kube, namespace, "pipetrail", "one")
    async with asyncio.timeout(2):
        await again.acquire()
    second = await spec(kube, namespace)
    assert (first["holderIdentity"], first["leaseDurationSeconds"], first["leaseTransitions"]) == ("one", 15, 0)
    assert (second["holderIdentity"], second["leaseTransitions"], again.held) == ("one", 0, True)
    assert second["renewTime"] > first["renewTime"]


async def test_another_waits_until_it_is_given_back(kube, namespace):
    one, two = (Lease(kube, namespace, "pipetrail", name) for name in ("one", "two"))
    await one.acquire()
    waiting = asyncio.create_task(two.acquire())
    await asyncio.sleep(leases.WAIT_S * 1.5)
    assert (waiting.done(), two.held, two.holder) == (False, False, "one")
    await one.release()
    async with asyncio.timeout(leases.WAIT_S * 2):
        await waiting
    assert (one.held, two.held) == (False, True)
    assert (await spec(kube, namespace))["leaseTransitions"] == 2  # given back, and taken


async def test_one_that_is_silent_is_followed_after_its_duration_and_not_before(kube, namespace):
    one, two = (Lease(kube, namespace, "pipetrail", name) for name in ("one", "two"))
    await one.acquire()
    began = time.monotonic()
    await two.acquire()
    assert leases.DURATION_S < time.monotonic() - began < leases.DURATION_S + 2 * leases.WAIT_S + 1
    assert one.held is False  # by its own clock, five seconds before


async def test_where_the_watches_stand_is_said_as_soon_as_each_has_listed_all_and_not_at_the_next_renewal(
    kube, namespace, monkeypatch
):
    monkeypatch.setattr(leases, "RENEW_S", 3600.0)
    lease, listed = Lease(kube, namespace, "pipetrail", "one"), 0
    await lease.acquire()
    lease.leave = lambda: {"example.com/listed": str(listed)}
    keeping = asyncio.create_task(lease.keep())

    def pulses() -> list[Pulse]:
        return [
            Pulse(path=f"/{n}", version="1", listed=n < listed, heard_s=None, restarts=0, trouble="") for n in (0, 1)
        ]

    async def said() -> str:
        return (await kube.get(path(namespace)))["metadata"].get("annotations", {}).get("example.com/listed", "")

    leaving = asyncio.create_task(leave_early(lease, pulses))
    await asyncio.sleep(1)
    assert await said() == ""
    listed = 1  # the other one can't be listed
    async with asyncio.timeout(30):
        while await said() != "1":  # noqa: ASYNC110  a Lease tells nobody
            await asyncio.sleep(0.1)
    assert not leaving.done()
    listed = 2
    async with asyncio.timeout(30):
        await leaving
    assert await said() == "2"
    keeping.cancel()
    await asyncio.wait([keeping])


async def test_a_holder_that_finds_another_in_its_place_ends(kube, namespace, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.2)
    one = Lease(kube, namespace, "pipetrail", "one")
    await one.acquire()
    keeping = asyncio.create_task(one.keep())
    await kube.patch(path(namespace), {"spec": {"holderIdentity": "somebody"}})
    with pytest.raises(TakenOver, match=f"somebody holds the Lease {namespace}/pipetrail now"):
        async with asyncio.timeout(5):
            await keeping
    assert one.held is False


async def test_without_an_answer_nothing_is_permitted_until_the_lease_is_seen_to_be_ours_again(
    cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.2)
    monkeypatch.setattr(leases, "WAIT_S", 0.2)
    monkeypatch.setattr(leases, "CALL_S", 0.3)
    monkeypatch.setattr(leases, "GIVE_UP_S", 1.0)
    async with through_a_proxy(cluster, tmp_path) as (behind, proxy):
        one = Lease(behind, namespace, "pipetrail", "one")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        await asyncio.sleep(0.5)
        assert one.held is True
        proxy.decide = lambda _: Stall(30)
        await asyncio.sleep(1.5)
        assert (one.held, keeping.done()) == (False, False)
        permitted = asyncio.create_task(one.permit())
        await asyncio.sleep(0.3)
        assert permitted.done() is False
        proxy.decide = lambda _: Pass()
        async with asyncio.timeout(5):
            await permitted
        assert (one.held, keeping.done()) == (True, False)
        keeping.cancel()
        await asyncio.wait([keeping])


@contextlib.asynccontextmanager
async def through_a_proxy(cluster: Cluster, folder: Path) -> Any:
    async with before_the_api(cluster) as proxy:
        config = kubeconfig(cluster, proxy.url, folder)
        async with await connect(cluster._replace(kubeconfig=str(config))) as behind:
            yield behind, proxy


async def test_a_namespace_that_is_not_there_is_named_with_the_way_out(kube):
    with pytest.raises(KubeError, match="no namespace pt-nowhere for the operator's Lease: create it, name another"):
        await Lease(kube, "pt-nowhere", "pipetrail", "one").acquire()


async def test_a_right_that_is_missing_is_named(cluster, namespace):
    if not cluster.ours:
        pytest.skip("needs a user without rights")
    async with await connect(cluster.user("tenant-b")) as stranger:
        with pytest.raises(KubeError, match=rf"no right to get, create and update leases.* in namespace {namespace}"):
            await Lease(stranger, namespace, "pipetrail", "one").acquire()


@pytest.mark.slow
async def test_of_two_operators_one_works_and_the_other_goes_on_where_it_was_killed(
    cluster: Cluster, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    if not cluster.kubeconfig:
        pytest.skip("needs a kubeconfig of its own")
    flags = ("--watch-namespace", namespace, "--namespace", namespace)
    config = Path(cluster.kubeconfig)
    one, two = (
        Operator(config, tmp_path / f"{name}.log", *flags, "--identity", name, lease=True) for name in ("one", "two")
    )
    try:
        await starts(one)
        waiting = asyncio.create_task(asyncio.to_thread(two.start, wait_s=60))
        while not two.lines("waiting for the lease"):  # noqa: ASYNC110  a process's log
            await asyncio.sleep(0.1)
        one.kill()
        began = time.monotonic()
        await asyncio.to_thread(one.start, wait_s=15)  # as the kill tests do: it need not wait
        print(f"the same identity works again after {time.monotonic() - began:.1f} s")
        assert two.lines("started") == []
        one.kill()
        began = time.monotonic()
        await waiting
        print(f"another works {time.monotonic() - began:.1f} s after the holder was killed")
        assert two.stop() == 0
        assert (await asyncio.to_thread(kubectl, "get", "lease", "pipetrail", "-n", namespace, "-o",
                                        "jsonpath={.spec.holderIdentity}")).out == ""  # fmt: skip
    finally:
        one.kill()
        two.kill()
