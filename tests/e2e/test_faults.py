"""What goes wrong around the operator while it runs, and what an admin sees of it.

One operator serves all tests here: it is started once, behind a proxy before the API server, and each test has a
namespace, a target and a proxy before MLflow of its own.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.cluster.fixtures import Cluster, Kubectl, connect, sweep
from tests.e2e import oracle
from tests.e2e.stage import Stage, before_the_api, kubeconfig, starts, until
from tests.real.mlflow import Server, free_port
from tests.real.operator import Operator
from tests.real.proxy import Action, Answer, CommitLater, Drop, Pass, Proxy, Seen, Stall, Truncate, once

from pipetrail.kube import TRACKED_RUNS

pytestmark = [pytest.mark.minutes(5), pytest.mark.api, pytest.mark.asyncio(loop_scope="module")]

FAST = 40.0
QUICK = {"concurrency": 8, "requestsPerSecond": 200}
REFUSED = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "this metric is not welcome"}).encode()
PAGE = Answer(200, b"<!doctype html><html><title>Sign in</title></html>", {"Content-Type": "text/html"})


class House:
    """The operator, and what tests need to make stages."""

    def __init__(self, cluster: Cluster, kubectl: Kubectl, operator: Operator, api: Proxy, tracker: Server) -> None:
        self.cluster = cluster
        self.operator = operator
        self.api = api
        self.tracker = tracker
        self._kubectl = kubectl

    @contextlib.asynccontextmanager
    async def stage(self) -> AsyncIterator[Stage]:
        """A namespace ready for runs, gone afterwards."""
        async with await connect(self.cluster) as connection:
            made = Stage(self.cluster, connection, f"e2e-{secrets.token_hex(4)}")
            await made.prepare()
            try:
                yield made
            finally:
                await asyncio.to_thread(sweep, self.cluster, self._kubectl, made.namespace)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    own_cluster: Cluster, own_kubectl: Kubectl, tracker: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    folder: Path = tmp_path_factory.mktemp("faults")
    async with before_the_api(own_cluster) as api:
        operator = Operator(kubeconfig(own_cluster, api.url, folder), folder / "operator.log")
        await starts(operator)
        yield House(own_cluster, own_kubectl, operator, api, tracker)
        try:
            assert operator.lines("delivery failed") == []
            assert await asyncio.to_thread(operator.stop) == 0
        finally:
            operator.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(house: House) -> AsyncIterator[Stage]:
    async with house.stage() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def mlflow(house: House) -> AsyncIterator[Proxy]:
    async with Proxy(house.tracker.url) as proxy:
        yield proxy


async def differences(house: House, stage: Stage, run: str, url: str) -> list[str]:
    """In what MLflow differs from the run as it stands."""
    body, (tracked,) = await stage.workflow(run), await stage.tracked(run)
    there = await oracle.held(house.tracker.url)
    return await asyncio.to_thread(oracle.differences, await oracle.wanted(stage.kube, body, tracked), there, url)


async def test_whatever_mlflow_answers_a_run_arrives_once_and_whole(house: House) -> None:
    def late(proxy: Proxy) -> None:
        """The first create commits when the second, which came after a look-up that found nothing, is answered."""
        when = asyncio.Event()
        seen: list[int] = []

        def decide(request: Seen) -> Action:
            if request.ends("/runs/create") and not seen:
                seen.append(request.number)
                return CommitLater(when)
            return Pass()

        def on_response(request: Seen, _status: int) -> None:
            if request.ends("/runs/create") and request.number not in seen:
                when.set()

        proxy.decide, proxy.on_response = decide, on_response

    def does(action: Action, tail: str, times: int = 2) -> Callable[[Proxy], None]:
        return lambda proxy: setattr(proxy, "decide", once(action, tail, times=times))

    create, write, search = "/runs/create", "/runs/log-batch", "/runs/search"
    plain = {"Content-Type": "application/json"}
    cases: dict[str, Callable[[Proxy], None]] = {
        "503 on create": does(Answer(503, b"busy"), create),
        "503 with Retry-After on create": does(Answer(503, b"", {**plain, "Retry-After": "1"}), create),
        "429 with Retry-After on log-batch": does(Answer(429, b"", {**plain, "Retry-After": "1"}), write),
        "503 on log-batch": does(Answer(503), write),
        "503 on update": does(Answer(503), "/runs/update"),
        "reset before create": does(Drop(), create),
        "create commits, then a reset": does(Drop(commit=True), create),
        "create commits, then 502": does(Answer(502, b"<html>bad gateway</html>", commit=True), create),
        "create commits, its answer is cut": does(Truncate(25), create),
        "create commits, a page answers": does(Answer(200, PAGE.body, PAGE.headers, commit=True), create, 1),
        "log-batch commits, then a reset": does(Drop(commit=True), write),
        "log-batch answers with garbage": does(Answer(200, b"\x00\xff{{{", commit=True), write),
        "update commits, then a reset": does(Drop(commit=True), "/runs/update"),
        "create commits and says nothing for 40 s": does(Stall(40, commit=True), create, 1),
        "log-batch says nothing for 40 s": does(Stall(40), write, 1),
        "create commits after the look-up": late,
        "create fails, then the look-up fails": lambda proxy: setattr(
            proxy, "decide", _each(once(Drop(commit=True), create), once(Answer(503), search, times=3))
        ),
    }  # fmt: skip

    async def one(name: str, arrange: Callable[[Proxy], None], recording: str) -> tuple[str, list[str]]:
        async with house.stage() as stage, Proxy(house.tracker.url) as proxy:
            await stage.target("mlflow", proxy.url, delivery=QUICK, capture={"stdout": "On"})
            await stage.ready("mlflow")
            arrange(proxy)
            await stage.play(recording, run="run", speed=FAST)
            await stage.reaches("run", "Synced", within_s=120)

            async def sure() -> bool:
                return not (await stage.tracked("run"))[0]["status"].get("doubtfulAt")

            await until(f"{name}: no doubt is left", sure, within_s=120)
            return name, await differences(house, stage, "run", proxy.url)

    shapes = ("nested-dags", "churn-sweep", "loop-retry")
    room = asyncio.Semaphore(17)

    async def in_turn(n: int, name: str, arrange: Callable[[Proxy], None]) -> tuple[str, list[str]]:
        async with room:
            return await one(name, arrange, shapes[n % len(shapes)])

    came = await asyncio.gather(*(in_turn(n, name, arrange) for n, (name, arrange) in enumerate(cases.items())))
    assert [(name, found) for name, found in came if found] == []


def _each(*deciders: Callable[[Seen], Action]) -> Callable[[Seen], Action]:
    def decide(seen: Seen) -> Action:
        return next((a for d in deciders if not isinstance(a := d(seen), Pass)), Pass())

    return decide


async def test_a_metric_that_mlflow_refuses_stands_alone_and_the_rest_lands(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    unwelcome = "loss"

    def decide(seen: Seen) -> Action:
        if seen.ends("/runs/log-batch") and unwelcome in {m["key"] for m in json.loads(seen.body).get("metrics", ())}:
            return Answer(400, REFUSED)
        return Pass()

    mlflow.decide = decide
    await stage.target("mlflow", mlflow.url, delivery=QUICK, capture={"stdout": "On"})
    await stage.play("churn-sweep", run="run", speed=FAST)
    await stage.reaches("run", "Synced")
    (tracked,) = await stage.tracked("run")
    changes = tracked["status"]["changes"]
    assert {("metric", unwelcome)} == {(c["item"], c["key"]) for c in changes["items"] if c["reason"] == "Rejected"}
    found = await differences(house, stage, "run", mlflow.url)
    assert all("points are missing" in text and unwelcome in text for text in found)
    assert len(found) == 3  # one in each turn of the sweep, and nothing else


async def test_what_a_store_does_not_give_yet_waits_with_all_that_depends_on_it(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    """A tracker can't take a point back: a loop's min and max wait for its last turn, a name for all of its sources."""
    await stage.target("mlflow", mlflow.url, delivery=QUICK, capture={"stdout": "On"})
    assert stage.store is not None
    port = free_port()
    async with Proxy(stage.store.endpoint, port=port, host=f"127.0.0.1:{port}") as store:  # the host is signed
        stage.store = msgspec.structs.replace(stage.store, endpoint=store.url)
        file, log = "2310913043/metrics.json", "3107085649/main.log"
        store.decide = lambda seen: Answer(503) if seen.method == "GET" and seen.path.endswith((file, log)) else Pass()
        await stage.play("churn-sweep", run="run", speed=FAST)

        async def told() -> bool:
            (tracked,) = await stage.tracked("run")
            return bool((tracked.get("status") or {}).get("partial"))

        await until("what is missing is told", told)
        root = (await stage.tracked("run"))[0]["spec"]["run"]["key"]
        held = [run for run in await oracle.held(house.tracker.url) if run.tags["pipetrail.root"] == root]
        assert {run.name: len(run.points) for run in held} == {"Churn sweep · run": 2, "train depth=4": 9}
        store.decide = lambda _seen: Pass()
        await stage.reaches("run", "Synced")
        assert await differences(house, stage, "run", mlflow.url) == []


async def test_a_dead_tracker_delays_no_other(house: House, stage: Stage, mlflow: Proxy) -> None:
    await stage.target("alive", mlflow.url, delivery=QUICK)
    await stage.target("dead", f"http://127.0.0.1:{free_port()}")
    await stage.ready("alive")
    runs = [f"run-{n}" for n in range(5)]
    await asyncio.gather(*(stage.play("nested-dags", run=run, speed=FAST) for run in runs))
    await asyncio.gather(*(stage.reaches(run, "Synced", target="alive", within_s=20) for run in runs))
    assert await stage.condition("dead") == ("False", "Unreachable")
    assert {"Synced"} == {(t.get("status") or {}).get("phase") for t in await stage.tracked(target="alive")}
    assert {t["status"]["phase"] for t in await stage.tracked(target="dead")} == {"Pending"}


async def test_what_waited_for_a_rotated_token_arrives_within_a_minute(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    valid = "old"

    def decide(seen: Seen) -> Action:
        return Pass() if seen.headers.get("Authorization") == f"Bearer {valid}" else Answer(401)

    mlflow.decide = decide
    await stage.secret("login", token="old")
    auth = {"bearerTokenSecretRef": {"name": "login", "key": "token"}}
    await stage.target("mlflow", mlflow.url, delivery=QUICK, mlflow={"auth": auth})
    await stage.ready("mlflow")
    valid = "new"
    await stage.play("nested-dags", run="run", speed=FAST)
    await _shows(stage, "mlflow", "Ready", ("False", "AuthenticationFailed"))
    begun = time.monotonic()
    await stage.secret("login", token="new")
    await stage.reaches("run", "Synced", within_s=60)
    print(f"arrived {time.monotonic() - begun:.0f} s after the Secret was changed")
    assert await differences(house, stage, "run", mlflow.url) == []


async def _shows(stage: Stage, target: str, kind: str, wanted: tuple[str, str], within_s: float = 30) -> None:
    async def shown() -> bool:
        return await stage.condition(target, kind) == wanted

    await until(f"{target} shows {kind}={wanted}", shown, within_s=within_s)


async def test_a_target_says_what_is_wrong_with_it_by_a_documented_reason(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    def answers(seen: Seen) -> Action:
        kinds = {"page": PAGE, "401": Answer(401), "403": Answer(403), "moved": Answer(302, b"", {"Location": "/x"})}
        return kinds.get(seen.path.split("/")[1], Pass())

    mlflow.decide = answers
    await stage.secret("login", token="t")
    await stage.kube.post(
        f"/api/v1/namespaces/{stage.namespace}/configmaps", {"metadata": {"name": "ca"}, "data": {"ca.crt": "nonsense"}}
    )

    def token(name: str, key: str) -> dict[str, Any]:
        return {"auth": {"bearerTokenSecretRef": {"name": name, "key": key}}}

    def ca(name: str, key: str) -> dict[str, Any]:
        return {"caBundleRef": {"configMapKeyRef": {"name": name, "key": key}}}

    there = mlflow.url
    wrong: dict[str, tuple[str, dict[str, Any], str]] = {
        "no-secret": (there, token("absent", "token"), "SecretNotFound"),
        "no-key": (there, token("login", "absent"), "SecretKeyNotFound"),
        "no-ca": (there, ca("absent", "ca.crt"), "ConfigMapNotFound"),
        "no-ca-key": (there, ca("ca", "absent"), "ConfigMapKeyNotFound"),
        "bad-ca": (there, ca("ca", "ca.crt"), "TlsFailed"),
        "page": (f"{there}/page", {}, "NotMlflow"),
        "moved": (f"{there}/moved", {}, "NotMlflow"),
        "unauthorised": (f"{there}/401", {}, "AuthenticationFailed"),
        "forbidden": (f"{there}/403", {}, "PermissionDenied"),
        "no-host": ("http://mlflow.invalid:5000", {}, "Unreachable"),
        "no-tls": (there.replace("http://", "https://"), {}, "TlsFailed"),
    }
    for name, (address, extra, _) in wrong.items():
        await stage.target(name, address, mlflow=extra)
    await asyncio.gather(*(_shows(stage, name, "Ready", ("False", reason)) for name, (_, _, reason) in wrong.items()))
    for name in ("no-secret", "no-key", "no-ca", "no-ca-key"):
        assert (await stage.condition(name, "ResolvedRefs"))[0] == "False"
    events = await stage.kube.get(f"/api/v1/namespaces/{stage.namespace}/events")
    told = {(e["involvedObject"]["name"], e["reason"]) for e in events["items"] if e["type"] == "Warning"}
    assert {(name, reason) for name, (_, _, reason) in wrong.items()} == told


async def test_a_suspended_target_sends_nothing_and_sends_what_waited_afterwards(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    await stage.target("mlflow", mlflow.url, delivery=QUICK, suspend=True)
    await _shows(stage, "mlflow", "Ready", ("False", "Suspended"))
    await stage.play("nested-dags", run="first", speed=FAST)
    assert mlflow.log == []
    await stage.patch_target("mlflow", {"suspend": False})
    await stage.reaches("first", "Synced")
    await stage.patch_target("mlflow", {"suspend": True})
    await _shows(stage, "mlflow", "Ready", ("False", "Suspended"))
    before = len(mlflow.log)
    await stage.play("nested-dags", run="second", speed=FAST)
    assert len(mlflow.log) == before
    await stage.patch_target("mlflow", {"suspend": False})
    await stage.reaches("second", "Synced")
    assert await differences(house, stage, "second", mlflow.url) == []


async def test_a_target_that_comes_while_a_run_is_live_takes_it_whole(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    playing = asyncio.create_task(stage.play("churn-sweep", run="run", speed=10))
    await asyncio.sleep(2.5)
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.reaches("run", "Tracking")
    assert not playing.done()
    await playing
    await stage.reaches("run", "Synced")
    assert await differences(house, stage, "run", mlflow.url) == []


async def test_a_deleted_target_stops_its_runs_and_one_of_the_same_name_resumes_them(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    playing = asyncio.create_task(stage.play("churn-sweep", run="run", speed=8))
    await stage.reaches("run", "Tracking")
    await stage.delete_target("mlflow")
    await stage.reaches("run", "Stopped", reason="TargetDeleted", within_s=10)
    before = len(mlflow.log)
    await playing
    assert len(mlflow.log) == before
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.reaches("run", "Synced")
    assert await differences(house, stage, "run", mlflow.url) == []


async def test_a_run_that_is_deleted_while_it_runs_is_closed_as_killed(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    await stage.play("deleted-running", run="run", speed=5)
    await stage.reaches("run", "Synced")
    (there,) = await _of(house, stage, "run")
    assert (there.status, there.tags["pipetrail.outcome"]) == ("Killed", "deleted")


async def test_a_run_that_is_deleted_while_the_operator_is_away_is_closed_as_killed_and_counted_as_lost(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    playing = asyncio.create_task(stage.play("nested-dags", run="run", speed=8))
    await stage.reaches("run", "Tracking")
    house.operator.kill()
    await stage.delete_workflow("run")
    await playing
    await starts(house.operator)
    await stage.reaches("run", "Stopped", reason="SourceDeleted")
    (there,) = await _of(house, stage, "run")
    assert (there.status, there.tags["pipetrail.outcome"]) == ("Killed", "deleted")


async def _of(house: House, stage: Stage, run: str) -> list[oracle.Held]:
    keys = {t["spec"]["run"]["key"] for t in await stage.tracked(run)}
    return [h for h in await oracle.held(house.tracker.url) if h.tags.get("pipetrail.root", "").split("#")[0] in keys]


async def test_a_retried_run_completes_the_run_that_is_there_or_gets_one_of_its_own(
    house: House, stage: Stage, mlflow: Proxy
) -> None:
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    await stage.play("retry-cli", run="run", speed=12)
    (body, header) = (await stage.workflow("run"), (await stage.workflow("run"))["status"]["startedAt"])

    async def caught_up() -> bool:
        found = await stage.tracked("run")
        newest = max(found, key=lambda t: t["spec"].get("attempt", 1)) if found else {}
        status = newest.get("status") or {}
        return status.get("phase") == "Synced" and status.get("generation", "") == header

    await until("the second generation is settled", caught_up)
    newest = max(await stage.tracked("run"), key=lambda t: t["spec"].get("attempt", 1))
    tree = await oracle.wanted(stage.kube, body, newest)
    there = await oracle.held(house.tracker.url)
    assert await asyncio.to_thread(oracle.differences, tree, there, mlflow.url) == []


async def test_a_watch_that_ends_or_is_told_410_misses_nothing(house: House, stage: Stage, mlflow: Proxy) -> None:
    gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
    status = {"Content-Type": "application/json"}
    in_stream = json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
    broken = json.dumps({"type": "ERROR", "object": {**gone, "reason": "InternalError", "code": 500}}).encode() + b"\n"
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    for n, answer in enumerate(
        [Answer(410, json.dumps(gone).encode(), status), Answer(200, in_stream, status), Answer(200, broken, status)]
    ):
        told: list[Seen] = []

        def decide(seen: Seen, answer: Answer = answer, told: list[Seen] = told) -> Action:
            if "watch=true" in seen.query and len(told) < 6:
                told.append(seen)
                return answer
            return Pass()

        house.api.decide = decide
        playing = asyncio.create_task(stage.play("nested-dags", run=f"run-{n}", speed=8))
        await asyncio.sleep(1)
        await _cut(house.api)
        await playing
        await stage.reaches(f"run-{n}", "Synced", within_s=90)
        assert len(told) == 6
        assert await differences(house, stage, f"run-{n}", mlflow.url) == []
    house.api.decide = lambda _seen: Pass()


async def _cut(proxy: Proxy) -> None:
    """Cut every connection to `proxy`, streams included; it goes on listening."""
    for connection in list(proxy._runner.server.connections):
        if connection.transport is not None:
            connection.transport.abort()


async def test_an_expired_token_is_read_anew_and_nothing_is_missed(house: House, stage: Stage, mlflow: Proxy) -> None:
    if not house.cluster.ours:
        pytest.skip("another user of this cluster is needed")
    other = house.cluster.env["users"]["tenant-a"]["token"]
    binding = {
        "metadata": {"name": stage.namespace}, "subjects": [{"kind": "User", "name": "tenant-a"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    }  # fmt: skip
    path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    await stage.kube.post(path, binding)
    kept = house.operator.kubeconfig.read_text()
    told: list[Seen] = []
    try:

        def decide(seen: Seen) -> Action:
            if seen.headers.get("Authorization") == f"Bearer {other}":
                return Pass()
            told.append(seen)
            return Answer(401, b'{"kind":"Status","code":401,"reason":"Unauthorized","message":"expired"}')

        house.api.decide = decide
        kubeconfig(house.cluster, house.api.url, house.operator.kubeconfig.parent, user={"token": other})
        await _cut(house.api)
        await stage.play("nested-dags", run="run", speed=8)
        await stage.reaches("run", "Synced", within_s=60)
        assert told
        assert await differences(house, stage, "run", mlflow.url) == []
    finally:
        house.operator.kubeconfig.write_text(kept)
        house.operator.kill()
        house.api.decide = lambda _seen: Pass()
        await stage.kube.delete(f"{path}/{stage.namespace}")
        await starts(house.operator)


async def test_argo_may_be_installed_after_the_operator(house: House, stage: Stage, mlflow: Proxy) -> None:
    house.operator.kill()
    house.api.decide = lambda seen: Answer(404, b"{}") if seen.path.startswith("/apis/argoproj.io") else Pass()
    await starts(house.operator)
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    await stage.play("nested-dags", run="earlier", speed=FAST)
    assert await stage.tracked("earlier") == []
    house.api.decide = lambda _seen: Pass()

    async def noticed() -> bool:
        return bool(house.operator.lines("kinds changed"))

    await until("the operator notices", noticed)
    await stage.play("nested-dags", run="later", speed=8)
    for run in ("earlier", "later"):
        await stage.reaches(run, "Synced", within_s=30)
        assert await differences(house, stage, run, mlflow.url) == []


async def test_a_run_costs_one_create_and_three_writes_to_the_ledger(house: House, stage: Stage, mlflow: Proxy) -> None:
    await stage.target("mlflow", mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    before = len(mlflow.log)
    await stage.play("params-kinds", run="run", speed=FAST)
    await stage.reaches("run", "Synced")
    calls = [s.path.rsplit("/mlflow/", 1)[-1] for s in mlflow.log[before:]]
    assert calls.count("runs/create") == 1
    assert calls.count("runs/log-batch") <= 2  # one that is live and one at the end
    assert calls.count("runs/search") == 0
    mine = f"{TRACKED_RUNS}/namespaces/{stage.namespace}/trackedruns"
    writes = [s.method for s in house.api.log if s.path.startswith(mine) and s.method != "GET"]
    assert writes == ["POST", "PATCH", "PATCH"]
