"""What is Neptune's own: its refusals, what it takes in part, loses or shows late, and workers that are killed.

The server stands in for a vendor's (tests/real/neptune.py); what it holds is read from it, past our code.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.contract.neptune_driver import NeptuneDriver
from tests.contract.test_contract import END, START_MS, everything, point, send, send_again, tracker_run
from tests.real import neptune
from tests.real.mlflow import free_port
from tests.real.neptune import Server
from tests.real.neptune_oracle import Oracle
from tests.real.pki import Pki
from tests.real.proxy import Answer, CommitLater, Drop, Pass, Proxy, Seen, Stall, once

from pipetrail.delivery import plan as plans
from pipetrail.record import ConfusionMatrix, Html, Markdown, Table
from pipetrail.targets.addresses import REFUSING
from pipetrail.targets.neptune import operations as ops
from pipetrail.targets.neptune import paths, wire
from pipetrail.targets.neptune.fit import fit
from pipetrail.targets.neptune.process import Bounds
from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import Batch, File, Plot, Refused, Retry, TargetError, Unauthorised, Unusable
from pipetrail.targets.verify import differences

OPERATIONS = "/attributes/operations"
QUICK = Bounds(call_s=10.0, http_s=2.0, pause_s=0.1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with neptune.serving() as running:
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def _as_before(server: Server) -> Iterator[None]:
    yield
    server.faults()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(server: Server) -> AsyncIterator[NeptuneTarget]:
    made = NeptuneTarget(server.url, server.project, server.token(), bounds=QUICK)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.url) as running:
        yield running


@pytest.fixture
def proxy(running_proxy: Proxy) -> Iterator[Proxy]:
    """As it is at first, whatever a test had it do."""
    running_proxy.log.clear()
    yield running_proxy
    running_proxy.decide, running_proxy.on_response = (lambda _seen: Pass()), None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def through(server: Server, running_proxy: Proxy) -> AsyncIterator[NeptuneTarget]:
    url = running_proxy.url
    made = NeptuneTarget(url, server.project, server.token(url), bounds=QUICK)
    yield made
    await made.close()


def attributes(server: Server, experiment: str) -> dict[str, Any]:
    """What the server holds of the one run of `experiment`."""
    (found,) = [
        {path: value for path, (_, value) in run["attributes"].items()}
        for run in server.runs()
        if run["attributes"].get("pipetrail/experiment", (0, ""))[1] == experiment
    ]
    return found


def steps(server: Server, experiment: str, path: str = "metrics/train/loss") -> list[float]:
    return [p["step"] for p in attributes(server, experiment)[path]]


@pytest.mark.parametrize(
    ("faults", "kind", "reason"),
    [
        ({"status": {"/clients/config": 401}}, Unauthorised, "AuthenticationFailed"),
        ({"status": {"/oauth-token": 401}}, Unauthorised, "AuthenticationFailed"),
        ({"status": {"/projects/get": 403}}, Unauthorised, "PermissionDenied"),
        ({"status": {"/projects/get": 404}}, Unusable, "ProjectNotFound"),
        ({"status": {"/backend/swagger.json": 404}, "body": "<html>nginx"}, Unusable, "NotNeptune"),
        ({"status": {"/backend/swagger.json": 200}, "body": "<html>login"}, Unusable, "NotNeptune"),
        ({"status": {"/projects/get": 302}, "headers": {"Location": "http://10.1.2.3/?a=1"}}, Unusable, "NotNeptune"),
        ({"status": {"/projects/get": 503}}, Retry, "Unreachable"),
        ({"status": {"/projects/get": 429}, "headers": {"Retry-After": "7"}}, Retry, "RateLimited"),
    ],
)  # fmt: skip
async def test_a_refusal_says_what_is_wrong(server: Server, faults, kind, reason) -> None:
    target = NeptuneTarget(server.url, server.project, server.token(), bounds=QUICK)
    server.faults(**faults)
    with pytest.raises(TargetError) as caught:
        await target.check()
    assert (type(caught.value), caught.value.reason) == (kind, reason), caught.value.message
    if reason == "RateLimited":
        assert (caught.value.after_s, caught.value.doubtful) == (7.0, False)
    server.faults()
    assert (await target.check()).version
    await target.close()


async def test_a_token_that_the_server_does_not_know_and_a_project_that_it_has_not(server: Server) -> None:
    for project, key, reason in (
        (server.project, "another key", "AuthenticationFailed"),
        ("team-a/nothing", neptune.KEY, "ProjectNotFound"),
    ):
        target = NeptuneTarget(server.url, project, server.token(key=key), bounds=QUICK)
        with pytest.raises(TargetError) as caught:
            await target.check()
        assert caught.value.reason == reason
        assert server.token(key=key) not in caught.value.message
        await target.close()


async def test_an_address_that_is_refused_is_never_called(server: Server, proxy: Proxy) -> None:
    target = NeptuneTarget(proxy.url, server.project, server.token(proxy.url), addresses=REFUSING, bounds=QUICK)
    with pytest.raises(Unusable) as caught:
        await target.check()
    assert caught.value.reason == "AddressRefused"
    assert proxy.log == []
    await target.close()


async def test_the_bundle_decides_whose_certificate_is_trusted(server: Server, tmp_path: Path, experiment: str) -> None:
    ours, theirs = Pki(tmp_path / "ours"), Pki(tmp_path / "theirs")
    for expired, ca_pem, trusted in (
        (False, ours.ca_pem, True), (False, theirs.ca_pem, False), (False, None, False), (True, ours.ca_pem, False),
    ):  # fmt: skip
        async with Proxy(server.url, tls=ours.server("127.0.0.1", expired=expired)) as tls:
            target = NeptuneTarget(tls.url, server.project, server.token(tls.url), ca_pem=ca_pem, bounds=QUICK)
            if trusted:
                run, handle = await send(target, tracker_run(experiment))
                assert differences(run, await target.read(handle), note=run.note) == ()
            else:
                with pytest.raises(Unusable) as caught:
                    await target.check()
                assert caught.value.reason == "TlsFailed"
            await target.close()


async def test_nobody_listens_there(server: Server) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    target = NeptuneTarget(nowhere, server.project, server.token(nowhere), bounds=QUICK)
    with pytest.raises(Retry) as caught:
        await target.open(target.fit(tracker_run("x")), None)
    assert (caught.value.reason, caught.value.doubtful) == ("Unreachable", False)
    await target.close()


async def test_a_server_that_names_another_address_is_not_followed(server: Server, proxy: Proxy) -> None:
    elsewhere = b'{"apiUrl": "http://127.0.0.1:9", "applicationUrl": "http://127.0.0.1:9", "pyLibVersions": {}}'
    proxy.decide = lambda seen: Answer(200, elsewhere) if seen.ends("/clients/config") else Pass()
    target = NeptuneTarget(proxy.url, server.project, server.token(proxy.url), bounds=QUICK)
    with pytest.raises(Unusable) as caught:
        await target.check()
    assert caught.value.reason == "NotNeptune"
    assert "http://127.0.0.1:9" in caught.value.message
    await target.close()


@pytest.mark.parametrize("status", [402, 422])
async def test_a_limit_of_the_workspace_halts_the_target(
    server: Server, target: NeptuneTarget, experiment: str, status: int
) -> None:
    run = target.fit(tracker_run(experiment))
    handle = await target.open(run, None)
    server.faults(status={OPERATIONS: status}, body='{"title": "The workspace is full"}')
    with pytest.raises(Unusable, match="The workspace is full") as caught:
        await target.write(handle, everything(run))
    assert caught.value.reason == "LimitExceeded"


async def test_what_is_refused_inside_a_200_is_named_and_the_rest_lands(
    server: Server, target: NeptuneTarget, experiment: str
) -> None:
    run = target.fit(tracker_run(experiment, tags={"team": "a", "tier": "b"}))
    handle = await target.open(replace(run, tags={}), None)
    server.faults(refuse="^(parameters/depth|tags/tier|metrics/train/bad)$")
    more = (*run.metrics, point("train/bad", 1.0))
    receipt = await target.write(handle, replace(everything(run), metrics=more))
    assert {(c.item, c.key, c.reason) for c in receipt.changes} == {
        ("param", "depth", "Rejected"), ("tag", "tier", "Rejected"), ("metric", "train/bad", "Rejected"),
    }  # fmt: skip
    assert "as the test asked" in receipt.changes[0].detail
    held = attributes(server, experiment)
    assert (held["parameters/learning-rate"], held["tags/team"], held["pipetrail/status"]) == (0.1, "a", "Finished")
    assert steps(server, experiment) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lost", ["^parameters/depth$", "^metrics/train/loss$", "^sys/description$"])
async def test_an_attribute_that_is_lost_is_noticed_and_sent_again(
    server: Server, target: NeptuneTarget, experiment: str, lost: str
) -> None:
    run = target.fit(tracker_run(experiment))
    handle = await target.open(replace(run, note=""), None)
    server.faults(lose=lost)
    batch = replace(everything(run), note=run.note)
    with pytest.raises(Retry) as caught:
        await target.write(handle, batch)
    assert (caught.value.reason, caught.value.doubtful) == ("LostWrites", True)
    assert attributes(server, experiment)["pipetrail/status"] == "Running"  # the end is told when all is there
    server.faults()
    await send_again(target, run, handle)
    assert differences(run, await target.read(handle), note=run.note) == ()
    assert steps(server, experiment) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lost", ["^sys/name$", "^pipetrail/started$", "^pipetrail/key$"])
async def test_a_run_that_was_made_and_not_marked_whole_is_taken_up_again(
    server: Server, target: NeptuneTarget, experiment: str, lost: str
) -> None:
    run = target.fit(tracker_run(experiment))
    server.faults(lose=lost)
    with pytest.raises(Retry) as caught:
        await target.open(run, None)
    assert caught.value.doubtful
    assert await target.find(run) == []
    server.faults()
    handle = await target.open(run, None)
    assert (await target.write(handle, everything(run))).changes == ()
    assert differences(run, await target.read(handle), note=run.note) == ()


async def test_a_server_that_takes_series_in_order_alone_gets_what_comes_late_too(
    server: Server, target: NeptuneTarget, experiment: str
) -> None:
    server.faults(increasing=True)
    run = target.fit(tracker_run(experiment))
    handle = await target.open(run, None)
    for batch in (Batch(metrics=run.metrics[2:]), Batch(metrics=run.metrics[:2]), everything(run)):
        assert (await target.write(handle, batch)).changes == ()
    assert differences(run, await target.read(handle), note=run.note) == ()


async def test_an_append_that_comes_after_it_was_read_in_vain_leaves_no_double(
    server: Server, proxy: Proxy, through: NeptuneTarget, experiment: str
) -> None:
    run = through.fit(tracker_run(experiment))
    handle = await through.open(run, None)
    commit = asyncio.Event()
    proxy.decide = once(CommitLater(commit), OPERATIONS)
    with pytest.raises(Retry) as caught:
        await through.write(handle, everything(run))
    assert caught.value.doubtful
    assert caught.value.after_s >= 3.0
    await send_again(through, run, handle)
    commit.set()
    async with asyncio.timeout(10):
        while len(steps(server, experiment)) < 10:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.05)
    assert [h.handle for h in await through.find(run)] == [handle]  # the courier's look before it settles
    assert differences(run, await through.read(handle), note=run.note) == ()
    assert steps(server, experiment) == [0, 1, 2, 3, 4]


async def test_an_operation_is_never_sent_twice_by_the_client_itself(
    proxy: Proxy, through: NeptuneTarget, experiment: str
) -> None:
    run = through.fit(tracker_run(experiment))
    handle = await through.open(run, None)
    before = len(proxy.calls(OPERATIONS))
    proxy.decide = once(Drop(commit=True), OPERATIONS, times=9)
    with pytest.raises(Retry):
        await through.write(handle, Batch(metrics=run.metrics))
    assert len(proxy.calls(OPERATIONS)) == before + 1


async def test_nor_after_a_broken_tls_connection_where_it_would_try_once_more(
    server: Server, tmp_path: Path, experiment: str
) -> None:
    pki = Pki(tmp_path)
    async with Proxy(server.url, tls=pki.server("127.0.0.1")) as tls:
        target = NeptuneTarget(tls.url, server.project, server.token(tls.url), ca_pem=pki.ca_pem, bounds=QUICK)
        run = target.fit(tracker_run(experiment))
        handle = await target.open(run, None)
        before = len(tls.calls(OPERATIONS))
        tls.decide = once(Drop(commit=True), OPERATIONS, times=9)
        with pytest.raises(Retry) as caught:
            await target.write(handle, Batch(metrics=run.metrics))
        assert caught.value.doubtful
        assert len(tls.calls(OPERATIONS)) == before + 1
        await target.close()
    assert steps(server, experiment) == [0, 1, 2, 3, 4]


async def test_a_token_that_has_expired_is_renewed_and_the_call_made_again(
    server: Server, proxy: Proxy, through: NeptuneTarget, experiment: str
) -> None:
    run = through.fit(tracker_run(experiment))
    handle = await through.open(run, None)
    expired = Answer(401, b'{"errorType": "AUTHORIZATION_TOKEN_EXPIRED"}')
    proxy.decide = once(expired, OPERATIONS)
    assert (await through.write(handle, everything(run))).changes == ()
    assert steps(server, experiment) == [0, 1, 2, 3, 4]


async def test_a_run_that_a_search_does_not_show_yet_is_opened_once(
    server: Server, target: NeptuneTarget, experiment: str
) -> None:
    server.faults(search_lag_s=60.0)
    run, handle = await send(target, tracker_run(experiment))
    child = target.fit(tracker_run(experiment, key=run.key + "-1", root=run.key))
    below = await target.open(child, handle)
    assert [h.handle for h in await target.find(run)] == [handle, below]
    fresh = NeptuneTarget(server.url, server.project, server.token(), bounds=QUICK)  # as after a restart
    try:
        assert await fresh.find(run) == []
        for again, parent in ((run, None), (child, handle)):
            with pytest.raises(Retry) as caught:
                await fresh.open(again, parent)
            assert (caught.value.reason, caught.value.doubtful) == ("AlreadyThere", True)
        assert [h.handle for h in await fresh.find(run)] == [handle, below]
        assert differences(run, await fresh.read(handle), note=run.note) == ()
    finally:
        await fresh.close()


@pytest.mark.parametrize("mark", [{"pipetrail/key": "cluster-1/another"}, {"parameters/mine": "x"}])
async def test_a_run_of_our_id_that_is_someone_elses_is_left_alone(
    server: Server, target: NeptuneTarget, experiment: str, mark
) -> None:
    run = target.fit(tracker_run(experiment))
    made = await target.process.call(wire.Create(custom_id=paths.custom_id(run.key)))
    ((path, value),) = mark.items()
    marking = (wire.AssignText(path=path, value=value), wire.AssignText(path="tags/theirs", value=experiment))
    await target.process.call(wire.Operate(run=made.id, operations=marking))
    with pytest.raises(Refused) as caught:
        await target.open(run, None)
    assert caught.value.reason == "NotOurs"
    (held,) = [r for r in server.runs() if r["attributes"].get("tags/theirs", (0, 0))[1] == experiment]
    assert "pipetrail/root" not in held["attributes"]


async def test_a_failed_run_never_shows_as_well_though_it_is_opened_again(
    server: Server, target: NeptuneTarget, experiment: str
) -> None:
    run, _ = await send(target, tracker_run(experiment, status="Failed"))
    with pytest.raises(Retry):
        await target.open(run, None)
    held = attributes(server, experiment)
    assert (held["sys/failed"], held["sys/name"], held["pipetrail/status"]) == (True, run.name, "Failed")


async def test_a_description_that_someone_has_edited_is_left_alone(
    server: Server, target: NeptuneTarget, experiment: str
) -> None:
    _, handle = await send(target, tracker_run(experiment))
    assert (await target.write(handle, Batch(note="ours, anew"))).changes == ()
    uuid = await target._id(handle)
    theirs = (wire.AssignText(path="sys/description", value="theirs"),)
    await target.process.call(wire.Operate(run=uuid, operations=theirs))
    (change,) = (await target.write(handle, Batch(note="ours once more"))).changes
    assert (change.item, change.reason) == ("note", "NoteKept")
    assert attributes(server, experiment)["sys/description"] == "theirs"


FIGURES = (
    Plot(path="evaluate/matrix", figure=ConfusionMatrix(labels=("a", "b"), rows=((3, 1), (0, 4))), time_ms=START_MS),
    Plot(path="evaluate/table", figure=Table(header=("x",), rows=(("1",),)), time_ms=START_MS),
    Plot(path="evaluate/notes", figure=Markdown(text="# hi <script>x</script>"), time_ms=START_MS),
    Plot(path="evaluate/page", figure=Html(text="<p onclick='x'>hi</p><script>x</script>"), time_ms=START_MS),
)


async def test_figures_and_files_are_files_of_the_run(server: Server, target: NeptuneTarget, experiment: str) -> None:
    run = target.fit(tracker_run(experiment, figures=FIGURES))
    handle = await target.open(run, None)
    files = (File(path="pipetrail/artifacts.json", media_type="application/json", data=b'[{"uri": "s3://b/k"}]'),)
    receipt = await target.write(handle, replace(everything(run), files=files, figures=run.figures))
    assert {(c.item, c.key, c.reason) for c in receipt.changes} == {
        ("figure", "evaluate/notes", "Sanitised"), ("figure", "evaluate/page", "Sanitised"),
    }  # fmt: skip
    held = attributes(server, experiment)
    assert {p for p, v in held.items() if isinstance(v, dict)} == {
        "pipetrail/artifacts.json", "figures/evaluate/matrix.png", "figures/evaluate/matrix.json",
        "figures/evaluate/table.json", "figures/evaluate/notes.md", "figures/evaluate/page.html",
    }  # fmt: skip
    read = await target.read(handle)
    assert read.figures == {p.path for p in FIGURES}
    assert differences(run, read, note=run.note) == ()


@pytest.mark.parametrize(("status", "reason"), [(400, "FileNotUploaded"), (404, None), (503, None)])
async def test_an_upload_that_fails_stops_nothing_before_it(
    server: Server, target: NeptuneTarget, experiment: str, status: int, reason: str | None
) -> None:
    run = target.fit(tracker_run(experiment))
    handle = await target.open(run, None)
    server.faults(uploads=status)
    batch = replace(
        everything(run), files=(File(path="pipetrail/artifacts.md", media_type="text/markdown", data=b"x"),)
    )
    if reason is None:
        with pytest.raises(TargetError):
            await target.write(handle, batch)
    else:
        (change,) = (await target.write(handle, batch)).changes
        assert (change.item, change.key, change.reason) == ("file", "pipetrail/artifacts.md", reason)
        assert attributes(server, experiment)["pipetrail/status"] == "Finished"
    assert steps(server, experiment) == [0, 1, 2, 3, 4]
    server.faults()
    await send_again(target, run, handle)
    assert differences(run, await target.read(handle), note=run.note) == ()


@pytest.mark.parametrize("call", range(1, 9))
async def test_a_worker_that_is_killed_at_any_call_loses_and_doubles_nothing(
    server: Server, proxy: Proxy, through: NeptuneTarget, experiment: str, call: int
) -> None:
    """Killed while the `call`-th request of the delivery is answered: it has taken effect, and nobody hears of it."""
    run = through.fit(tracker_run(experiment))
    await through.check()
    first = len(proxy.log)

    def kill(seen: Seen, _status: int) -> None:
        if seen.number == first + call:
            os.kill(through.process.pid, signal.SIGKILL)

    proxy.on_response = kill
    handle = None
    async with asyncio.timeout(60):
        while True:
            try:
                found = await through.find(run)
                handle = found[0].handle if found else await through.open(run, None)
                held = await through.read(handle)
                batch = plans.plan(run, run.note, plans.from_held(held)).batch
                if batch.empty:
                    break
                await through.write(handle, batch)
            except Retry as trouble:
                await asyncio.sleep(min(trouble.after_s or 0.0, 0.5))
    assert differences(run, await through.read(handle), note=run.note) == ()
    assert steps(server, experiment) == [0, 1, 2, 3, 4]


async def test_a_server_that_hangs_harms_no_other_target(server: Server, proxy: Proxy, experiment: str) -> None:
    hung = NeptuneTarget(proxy.url, server.project, server.token(proxy.url), bounds=Bounds(start_s=8.0, call_s=3.0))
    well = NeptuneTarget(server.url, server.project, server.token(), bounds=QUICK)
    try:
        await well.check()
        proxy.decide = lambda _: Stall()
        stuck = asyncio.create_task(hung.check())
        run = well.fit(tracker_run(experiment))
        handle = await well.open(run, None)
        loop = asyncio.get_running_loop()
        slowest = 0.0
        while not stuck.done():
            began = loop.time()
            await well.write(handle, Batch(tags={"pipetrail.at": str(began)}))
            slowest = max(slowest, loop.time() - began)
        assert slowest < 4.0
        with pytest.raises(Retry):
            await stuck
    finally:
        await hung.close()
        await well.close()


async def test_offline_the_vendors_own_reader_reads_what_we_write(
    server: Server, experiment: str, tmp_path: Path
) -> None:
    """Our operations, in the vendor's offline mode, brought to a server by its own ``sync`` and read by its client."""
    run = fit(tracker_run(experiment, params={"depth": "4", "rate": "1e-3", "odd": "größe\n"}))
    content, _ = ops.content(everything(run))
    operations = (
        *ops.opening(run, ""),
        *ops.claiming(run.key),
        *content,
        *ops.ending("Finished", run.finished, was_finished=False),
    )
    environment = {
        **os.environ, "NEPTUNE_API_TOKEN": server.token(), "NEPTUNE_PROJECT": server.project,
        "OAUTHLIB_INSECURE_TRANSPORT": "1", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.real.neptune_offline", cwd=tmp_path, env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate(wire.encode(operations))
    assert process.returncode == 0, said.decode()
    oracle = Oracle(server.token(), server.project)
    try:
        (held,) = NeptuneDriver(server, oracle).oracle(experiment)
    finally:
        oracle.close()
    assert differences(run, held, note=run.note) == ()


async def test_a_worker_stays_below_200_mib(target: NeptuneTarget, experiment: str) -> None:
    points = tuple(point(f"m{n % 20}", float(n), n // 20) for n in range(20_000))
    run, handle = await send(target, tracker_run(experiment, metrics=points, finished=END))
    assert len((await target.read(handle)).metrics) == 20_000
    assert run.finished == END
    assert target.process.rss < 200 << 20
