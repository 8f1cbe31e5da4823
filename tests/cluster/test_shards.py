"""Who looks after which namespaces: Leases and the ConfigMap on a real API server, without anything that is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.e2e.stage import until

from pipetrail.controller import bookmarks
from pipetrail.controller.alone import Alone
from pipetrail.controller.lease import LEASES, Lease
from pipetrail.controller.plans import Plan
from pipetrail.controller.shares import Several, Shares, shares
from pipetrail.controller.stands import Beginning, name_of
from pipetrail.kube import Kube
from pipetrail.settings import Settings
from pipetrail.shards import TOP, WHOLE

pytestmark = [pytest.mark.minutes(3), pytest.mark.api]

WORKFLOWS = "/apis/argoproj.io/v1alpha1/workflows"
NEVER_S = 4.0  # what takes a second or two if it happens at all


class Shard:
    """One operator's part in it: it holds its Lease until it goes, or dies without a word."""

    def __init__(self, kube: Kube, namespace: str, number: int, of: int) -> None:
        settings = Settings(namespace=namespace, shard=number, shards=of)
        self.lease = Lease(kube, namespace, name_of("pipetrail", number), f"shard-{number}")
        self.shares: Shares = shares(kube, settings, self.lease)
        self.holding = asyncio.create_task(self.lease.hold())
        self.beginning = asyncio.create_task(self._begin())

    async def _begin(self) -> Beginning:
        begun = await self.shares.begin()
        self.shares.began()
        self.lease.leave = lambda: self.shares.annotations({})
        return begun

    async def begins(self) -> Beginning:
        """What it begins with; that takes a moment."""
        return await asyncio.wait_for(asyncio.shield(self.beginning), 30)

    async def at(self, version: str) -> None:
        """Its watch has come so far, as its Lease says."""
        text = bookmarks.text({WORKFLOWS: version})
        self.lease.leave = lambda: self.shares.annotations({bookmarks.ANNOTATION: text})
        await self.lease.say()

    async def moves(self, version: str) -> None:
        """It sees that the plan is another, lets go with its watch at `version`, and begins anew."""
        await asyncio.wait_for(self.shares.moved(), 30)
        self.shares.let_go({WORKFLOWS: version})
        self.beginning = asyncio.create_task(self._begin())

    async def dies(self) -> None:
        """As by kill -9."""
        for task in (self.holding, self.beginning):
            task.cancel()
        await asyncio.wait([self.holding, self.beginning])

    async def goes(self) -> None:
        """As by SIGTERM."""
        await self.dies()
        await self.lease.release()


class House:
    """The operator's namespace."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self.all: list[Shard] = []

    def shard(self, number: int, of: int) -> Shard:
        made = Shard(self.kube, self.namespace, number, of)
        self.all.append(made)
        return made

    async def plan(self) -> Plan:
        body = await self.kube.get(self.path)
        return msgspec.json.decode(body["data"]["plan"], type=Plan)

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps/pipetrail-shards"


@pytest_asyncio.fixture
async def house(kube: Kube, namespace: str) -> AsyncIterator[House]:
    made = House(kube, namespace)
    yield made
    for shard in made.all:
        await shard.dies()


async def waits(shard: Shard) -> None:
    """It does not begin, though it has had the time."""
    with contextlib.suppress(TimeoutError):
        begun = await asyncio.wait_for(asyncio.shield(shard.beginning), NEVER_S)
        raise AssertionError(f"it began: {begun}")


async def test_an_operator_without_shards_says_nothing_of_shards(house: House) -> None:
    alone = house.shard(0, 1)
    assert isinstance(alone.shares, Alone)
    assert await alone.begins() == Beginning(share=WHOLE)
    lease = await house.kube.get(f"{LEASES}/{house.namespace}/leases/pipetrail")
    assert "annotations" not in lease["metadata"]
    there = await house.kube.get(f"/api/v1/namespaces/{house.namespace}/configmaps")
    assert "pipetrail-shards" not in [item["metadata"]["name"] for item in there["items"]]


async def test_two_shards_share_all_there_is(house: House) -> None:
    second = house.shard(1, 2)
    await waits(second)
    first = house.shard(0, 2)
    shares_of = [(await shard.begins()).share for shard in (first, second)]
    assert [(s.number, s.of) for s in shares_of] == [(0, 2), (1, 2)]
    assert (shares_of[0].low, shares_of[0].high, shares_of[1].high) == (0, shares_of[1].low, TOP)


async def test_a_shard_begins_only_when_the_one_before_it_has_let_go_and_where_that_stood(house: House) -> None:
    alone = house.shard(0, 1)
    await alone.begins()
    await alone.at("1200")
    second = house.shard(1, 2)
    await waits(second)
    await alone.goes()
    first = house.shard(0, 2)
    assert (await second.begins()).start_at == {WORKFLOWS: "1200"}
    assert (await first.begins()).start_at == {WORKFLOWS: "1200"}


async def test_nobody_begins_the_next_epoch_while_one_shard_still_works_in_the_last(house: House) -> None:
    first, second = house.shard(0, 2), house.shard(1, 2)
    await first.begins()
    await second.begins()
    await first.goes()
    first, third = house.shard(0, 3), house.shard(2, 3)
    await until("the next epoch is there", lambda: _epoch(house, 2))
    await waits(first)
    await waits(third)
    await second.moves("77")
    begun = [await shard.begins() for shard in (first, second, third)]
    assert [b.share.of for b in begun] == [3, 3, 3]
    assert [b.start_at for b in begun] == [{WORKFLOWS: "77"}] * 3


async def test_a_shard_that_died_keeps_the_others_waiting_until_its_lease_has_run_out(house: House) -> None:
    first, second = house.shard(0, 2), house.shard(1, 2)
    await first.begins()
    await second.begins()
    await second.dies()
    await first.goes()
    first = house.shard(0, 3)
    await waits(first)
    assert (await first.begins()).share.of == 3


async def test_one_that_is_alone_again_waits_for_the_others_and_they_rest(house: House) -> None:
    first, second = house.shard(0, 2), house.shard(1, 2)
    await first.begins()
    await second.begins()
    await first.goes()
    alone = house.shard(0, 1)
    await waits(alone)
    await second.moves("40")
    assert await alone.begins() == Beginning(share=WHOLE, start_at={WORKFLOWS: "40"})
    assert second.shares.idle
    await waits(second)


@pytest.mark.parametrize("how", ["deleted", "set back", "torn"])
async def test_a_configmap_that_is_lost_is_written_anew_with_a_higher_epoch(house: House, how: str) -> None:
    first, second = house.shard(0, 2), house.shard(1, 2)
    await first.begins()
    await second.begins()
    await first.goes()
    first = house.shard(0, 3)
    await second.moves("5")
    assert [(await shard.begins()).share.of for shard in (first, second)] == [3, 3]
    before = await house.plan()
    assert before.epoch == 2
    if how == "deleted":
        await house.kube.delete(house.path)
    else:
        edited = {"epoch": 1} if how == "set back" else {"edges": ("0x20", "0x10")}
        plan = msgspec.json.encode(msgspec.structs.replace(before, **edited)).decode()
        await house.kube.patch(house.path, {"data": {"plan": plan}})
    await asyncio.gather(first.moves("9"), second.moves("8"))
    assert [(await shard.begins()).start_at for shard in (first, second)] == [{WORKFLOWS: "8"}] * 2
    assert (await house.plan()).epoch > before.epoch


async def test_nothing_is_sent_after_a_lapse_of_the_lease_until_the_plan_was_read_again(house: House) -> None:
    first, second = house.shard(0, 2), house.shard(1, 2)
    await first.begins()
    await second.begins()
    assert isinstance(second.shares, Several)
    await asyncio.wait_for(second.shares.permit(), 5)
    # What the loop does when the API server was away for too long: the Lease runs out, and is then taken again.
    second.lease._until = 0.0
    await second.lease.say()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second.shares.permit(), NEVER_S)
    looking = asyncio.create_task(second.shares.moved())
    try:
        await asyncio.wait_for(second.shares.permit(), 30)
    finally:
        looking.cancel()


async def _epoch(house: House, epoch: int) -> bool:
    return (await house.plan()).epoch == epoch


def test_a_plan_that_someone_edited_is_not_taken_for_sound() -> None:
    assert Plan(epoch=1, edges=("0x10", "0x20")).cut.sound
    for edges in [("0x20", "0x10"), ("what",), ("0x1ffffffffffffffff",)]:
        found: Any = Plan(epoch=1, edges=edges).cut
        assert not found.sound
