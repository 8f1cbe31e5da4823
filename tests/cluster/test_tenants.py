"""Two teams on one cluster: whatever team A writes, its trackers never see what is team B's, and B's runs stay B's.

Real users, real MLflow servers, the operator under the rights of its ServiceAccount. The ways are in tenants/, and
docs/security.md shows them.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.cluster.fixtures import Cluster, Kubectl
from tests.cluster.tenants import runs, targets, trackedruns
from tests.cluster.tenants.building import built
from tests.cluster.tenants.objects import artifact
from tests.cluster.tenants.town import Team, Town
from tests.e2e import oracle
from tests.e2e.stage import starts, until

pytestmark = [
    pytest.mark.minutes(2),
    pytest.mark.api,
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]
WAYS = (*targets.WAYS, *runs.WAYS, *trackedruns.WAYS)
DOC = Path(__file__).parents[2] / "docs" / "security.md"


class Aftermath(NamedTuple):
    """What came of all ways, and how team B's runs were before the first."""

    town: Town
    seen: dict[str, str]
    before: dict[str, oracle.Held]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aftermath(
    cluster: Cluster, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Aftermath]:
    if not cluster.ours or not cluster.env.get("s3"):
        pytest.skip("the users and the store are the local cluster's")
    async with built(cluster, kubectl, tmp_path_factory.mktemp("town")) as town:
        await starts(town.operator)
        assert [await team.ready("mlflow") for team in (town.a, town.b)] == ["Ready", "Ready"]
        before = await _team_b_works(town)
        await town.run(town.a, "honest", outputs={"parameters": [{"name": "accuracy", "value": "0.5"}]})
        seen: dict[str, str] = {}
        made = {way.what: await way.does(town) for way in WAYS if not way.away}
        await town.a.reaches("honest", f"shared-{town.mark}")
        await _see(town, made, seen)
        assert await asyncio.to_thread(town.operator.stop) == 0
        made = {way.what: await way.does(town) for way in WAYS if way.away}
        await starts(town.operator)
        await _live_run_ends(town)
        await _see(town, made, seen)
        yield Aftermath(town, seen, before)
        assert town.operator.lines("delivery failed") == []


async def _team_b_works(town: Town) -> dict[str, oracle.Held]:
    """A run that has ended, one whose object is gone though the tracker shows it as running, and one that runs."""
    b, shared = town.b, f"shared-{town.mark}"
    params = {"arguments": {"parameters": [{"name": "theirs", "value": town.value}]}}
    for name in ("finished", "vanished"):
        outputs = artifact(s3={"key": town.key})
        await town.run(b, name, spec=params, outputs=outputs, status=town.repository())
        assert [await b.reaches(name, target) for target in ("mlflow", shared)] == ["Synced", "Synced"]
    await town.run(b, "live", phase="Running", spec=params)
    for server in (b.server, town.shared_server):
        await until("team B's live run is there", lambda server=server: _of(town, server, "live"))
    await b.kube.delete(f"/apis/argoproj.io/v1alpha1/namespaces/{b.namespace}/workflows/vanished")
    (gone,) = await _of(town, town.shared_server, "vanished")
    await asyncio.to_thread(oracle.client(town.shared_server.url).update_run, gone.id, "RUNNING")
    return await _theirs(town)


async def _of(town: Town, server: Any, run: str) -> list[oracle.Held]:
    return [held for held in await town.held(server) if held.tags["pipetrail.run"] == run]


async def _theirs(town: Town) -> dict[str, oracle.Held]:
    """Team B's runs in its own tracker and in the shared one, without the one that goes on."""
    every = [*await town.held(town.b.server), *await town.held(town.shared_server)]
    return {
        h.id: h
        for h in every
        if h.tags["pipetrail.namespace"] == town.b.namespace and h.tags["pipetrail.run"] != "live"
    }


async def _live_run_ends(town: Town) -> None:
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{town.b.namespace}/workflows/live"
    status = (await town.b.kube.get(path))["status"]
    ended = {"phase": "Succeeded", "finishedAt": status["startedAt"]}
    outputs = {"parameters": [{"name": "own", "value": "0.75"}]}
    nodes = {"live": {**status["nodes"]["live"], **ended, "outputs": outputs}}
    await town.b.kube.patch(path, {"status": {**ended, "nodes": nodes}})


async def _see(town: Town, made: dict[str, Any], seen: dict[str, str]) -> None:
    for way in WAYS:
        if way.what in made:
            try:
                seen[way.what] = await way.sees(town, made[way.what])
            except AssertionError as error:
                seen[way.what] = str(error).splitlines()[0]


async def _said_to(team: Team) -> bytes:
    """All that a team can see: its tracker's files, all that was sent to it, and the objects of its namespace."""
    seen = [path.read_bytes() for path in team.server.folder.rglob("*") if path.is_file()]
    seen += [repr((call.path, call.query, call.headers)).encode() + call.body for call in team.proxy.log]
    listed = [await team.get(kind) for kind in ("trackedruns", "trackingtargets", "events")]
    return b"\n".join([*seen, json.dumps(listed).encode()])


async def test_every_way_ends_as_it_should(aftermath: Aftermath) -> None:
    for way in WAYS:
        print(f"{way.what:92.92} {aftermath.seen[way.what]}")
    assert len(WAYS) >= 20
    assert aftermath.seen == {way.what: way.expected for way in WAYS}


async def test_nothing_of_team_b_is_anywhere_that_team_a_sees(aftermath: Aftermath) -> None:
    town = aftermath.town
    theirs, ours = await _said_to(town.b), await _said_to(town.a)
    secret, value, metric, _ = (canary.encode() for canary in town.canaries)
    assert [canary in theirs for canary in (secret, value, metric)] == [True, True, True], "what is looked for is there"
    assert b"accuracy" in ours
    assert [canary for canary in town.canaries if canary.encode() in ours] == []
    assert {h.tags["pipetrail.namespace"] for h in await town.held(town.a.server)} == {town.a.namespace}


async def test_team_bs_runs_are_as_they_were_and_in_its_tracker_alone_with_each_other(aftermath: Aftermath) -> None:
    town = aftermath.town
    assert await _theirs(town) == aftermath.before
    assert {h.tags["pipetrail.namespace"] for h in await town.held(town.b.server)} == {town.b.namespace}


async def test_in_a_shared_tracker_each_team_has_experiments_of_its_own(aftermath: Aftermath) -> None:
    town = aftermath.town
    held = await town.held(town.shared_server)
    assert {h.tags["pipetrail.namespace"] for h in held} == {town.a.namespace, town.b.namespace}
    assert [h.experiment for h in held if not h.experiment.startswith(f"{h.tags['pipetrail.namespace']}/")] == []


async def test_no_address_that_only_a_user_chose_was_called(aftermath: Aftermath) -> None:
    town = aftermath.town
    assert (town.near.met, town.far.met) == ([], [])
    assert town.open.calls("/runs/create") == []


async def test_the_canaries_would_have_told(aftermath: Aftermath) -> None:
    for canary in (aftermath.town.near, aftermath.town.far):
        _, writer = await asyncio.open_connection(canary.host, canary.port)
        writer.write(b"hello\n")
        await until("the canary has met us", lambda canary=canary: _first(canary.met))
        assert canary.met.pop() == "hello\n"
        writer.close()


async def _first(met: list[str]) -> list[str]:
    return met


async def test_no_secret_of_a_team_is_in_the_operators_log(aftermath: Aftermath) -> None:
    log = aftermath.town.operator.log.read_text()
    assert '"event": "started"' in log
    assert [canary for canary in aftermath.town.canaries if canary in log] == []


@pytest.mark.asyncio(loop_scope="function")
async def test_the_page_on_security_has_every_way() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", DOC.read_text(), re.MULTILINE)
    assert [row for row in rows if row in {(w.what, w.expected) for w in WAYS}] == [(w.what, w.expected) for w in WAYS]
