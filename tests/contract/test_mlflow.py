"""MLflow's own ways, on a real server: what it refuses, forgets, shows to people, and who it lets in."""

import asyncio
import contextlib
import json
import math
import os
import sys
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace
from tests.contract.mlflow_driver import MlflowDriver
from tests.contract.test_contract import END, everything, point, send, tracker_run
from tests.real.mlflow import Server
from tests.real.proxy import Action, Answer, Pass, Proxy, Seen

from pipetrail.targets.mlflow.auth import Auth, Basic, Bearer, NoAuth, header
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.target import (
    Batch,
    File,
    Handle,
    Refused,
    Retry,
    TrackerRun,
    Unauthorised,
    Unusable,
)
from pipetrail.targets.verify import differences

pytestmark = pytest.mark.mlflow


@contextlib.asynccontextmanager
async def calling(url: str, **options) -> AsyncIterator[MlflowTarget]:
    """A target that gives its connections back whatever happens."""
    target = MlflowTarget(url, **options)
    try:
        yield target
    finally:
        await target.close()


@pytest.fixture(scope="session")
def mlflow_driver(plain_mlflow: Server) -> MlflowDriver:
    return MlflowDriver(plain_mlflow)


@pytest.fixture
async def target(plain_mlflow: Server) -> AsyncIterator[MlflowTarget]:
    async with calling(plain_mlflow.url) as made:
        yield made


@pytest.fixture
async def proxy(plain_mlflow: Server) -> AsyncIterator[Proxy]:
    async with Proxy(plain_mlflow.url) as running:
        yield running


@pytest.fixture
async def through(proxy: Proxy) -> AsyncIterator[MlflowTarget]:
    async with calling(proxy.url) as made:
        yield made


async def opened(target: MlflowTarget, run: TrackerRun) -> tuple[TrackerRun, Handle]:
    fitted = target.fit(run)
    return fitted, await target.open(fitted, None)


async def test_the_life_of_a_run_with_10_params_and_20_metrics_is_three_requests(
    proxy: Proxy, through: MlflowTarget, experiment: str
) -> None:
    run = tracker_run(
        experiment, params={f"p{i}": str(i) for i in range(10)}, metrics=tuple(point(f"m{i}", i / 7) for i in range(20))
    )
    await send(through, replace(run, key="first", root="first"))  # makes the experiment
    proxy.log.clear()
    fitted, handle = await opened(through, run)
    left = Batch(params=fitted.params, metrics=fitted.metrics, status="Finished", finished=END)
    assert (await through.write(handle, left)).changes == ()
    assert [s.path.rpartition("mlflow/")[2] for s in proxy.log] == ["runs/create", "runs/log-batch", "runs/update"]


async def test_a_param_that_holds_another_value_is_named_and_the_rest_arrives(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    run, handle = await opened(target, tracker_run(experiment, params={f"p{i}": "v" for i in range(100)}))
    await target.write(handle, Batch(params={"p41": "first", "p77": "first"}))
    receipt = await target.write(handle, everything(run))
    assert sorted((c.item, c.key, c.reason) for c in receipt.changes) == [
        ("param", "p41", "ParamConflict"), ("param", "p77", "ParamConflict"),
    ]  # fmt: skip
    (held,) = mlflow_driver.oracle(experiment)
    assert {(d.item, d.key) for d in differences(run, held)} == {("param", "p41"), ("param", "p77")}


async def test_a_metric_that_the_server_refuses_is_isolated_from_a_thousand(
    mlflow_driver: MlflowDriver, proxy: Proxy, through: MlflowTarget, experiment: str
) -> None:
    """MLflow itself takes all that we send, so a proxy plays the validator of another version."""
    run, handle = await opened(
        through, tracker_run(experiment, metrics=tuple(point("loss", i / 3, i) for i in range(500)))
    )

    def refuse(seen: Seen) -> Action:
        points = json.loads(seen.body).get("metrics", []) if seen.ends("log-batch") else []
        if any(p["step"] == 321 for p in points):
            return Answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no step 321"}')
        return Pass()

    proxy.decide = refuse
    receipt = await through.write(handle, everything(run))
    (change,) = receipt.changes
    assert (change.item, change.key, change.reason, change.detail) == (
        "metric",
        "loss",
        "Rejected",
        "step 321: no step 321",
    )
    assert len(proxy.calls("log-batch")) < 25
    (held,) = mlflow_driver.oracle(experiment)
    (difference,) = differences(run, held)
    assert (difference.item, difference.step) == ("metric", 321)


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(
    proxy: Proxy, through: MlflowTarget, experiment: str
) -> None:
    run, handle = await opened(
        through, tracker_run(experiment, metrics=tuple(point("loss", i, i) for i in range(1000)))
    )
    refusal = Answer(400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}')
    proxy.decide = lambda seen: refusal if seen.ends("log-batch") else Pass()
    receipt = await through.write(handle, Batch(metrics=run.metrics))
    assert len(receipt.changes) == 1000
    assert len(proxy.calls("log-batch")) < 500


async def test_a_deleted_experiment_is_neither_restored_nor_made_anew(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    run, handle = await opened(target, tracker_run(experiment))
    client = mlflow_driver.client
    client.delete_experiment(handle.experiment_id)
    async with calling(mlflow_driver.url) as fresh:
        for fresh_or_not in (target, fresh):
            with pytest.raises(Refused) as caught:
                await fresh_or_not.open(replace(run, key="another"), None)
            assert caught.value.reason == "ExperimentDeleted"
            assert "naming.experiment" in caught.value.message
        with pytest.raises(Refused):
            await fresh.find(run)
    assert client.get_experiment(handle.experiment_id).lifecycle_stage == "deleted"
    client.restore_experiment(handle.experiment_id)
    assert (await target.open(replace(run, key="another"), None)).experiment_id == handle.experiment_id


async def test_a_run_whose_experiment_was_deleted_on_the_way_is_told_so(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    run, handle = await opened(target, tracker_run(experiment))
    mlflow_driver.client.delete_experiment(handle.experiment_id)
    for call in (target.write(handle, everything(run)), target.write(handle, Batch(status="Failed"))):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.reason == "ExperimentDeleted"


async def test_an_experiment_that_someone_renames_keeps_its_runs(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    run, handle = await opened(target, tracker_run(experiment))
    mlflow_driver.client.rename_experiment(handle.experiment_id, experiment + " (old)")
    async with calling(mlflow_driver.url) as fresh:
        (found,) = await fresh.find(run)
        assert found.handle == handle
        child = await fresh.open(replace(run, key="child"), found.handle)
        assert child.experiment_id == handle.experiment_id
        assert [h.key for h in await fresh.find(run)] == [run.key, "child"]


async def test_two_that_make_one_experiment_at_once_share_it(plain_mlflow: Server, experiment: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(calling(plain_mlflow.url)) for _ in range(4)]
        run = targets[0].fit(tracker_run(experiment))
        handles = await asyncio.gather(*(t.open(replace(run, key=f"k{i}"), None) for i, t in enumerate(targets)))
    assert len({h.experiment_id for h in handles}) == 1


async def test_a_run_that_is_gone_for_good_is_refused(target: MlflowTarget) -> None:
    gone = Handle(id="f" * 32, experiment_id="0")
    for call in (
        target.read(gone),
        target.write(gone, Batch(tags={"a": "b"})),
        target.write(gone, Batch(status="Failed")),
    ):
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.reason == "RunGone"
    await target.discard(gone)


async def test_a_child_that_someone_deleted_is_not_made_again(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    run, parent = await send(target, tracker_run(experiment))
    _, child = await send(target, tracker_run(experiment, key="child", root=run.key), parent)
    mlflow_driver.client.delete_run(child.id)
    with pytest.raises(Refused) as caught:
        await target.find(run)
    assert caught.value.reason == "RunDeleted"


async def test_a_run_of_someone_else_is_never_discarded(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    client = mlflow_driver.client
    theirs = client.create_run(client.create_experiment(experiment))
    with pytest.raises(Refused) as caught:
        await target.discard(Handle(id=theirs.info.run_id))
    assert caught.value.reason == "NotOurs"
    assert client.get_run(theirs.info.run_id).info.lifecycle_stage == "active"


async def test_a_tree_of_more_runs_than_a_page_holds_is_found_whole(target: MlflowTarget, experiment: str) -> None:
    run, parent = await opened(target, tracker_run(experiment, metrics=()))
    children = [replace(run, key=f"c{i:03d}", name=f"train depth={i}") for i in range(60)]
    for start in range(0, 60, 6):
        await asyncio.gather(*(target.open(c, parent) for c in children[start : start + 6]))
    found = await target.find(run)
    assert len(found) == 61
    assert found[0].handle.id == parent.id
    assert {h.key for h in found[1:]} == {c.key for c in children}


async def test_a_note_is_written_at_create_and_mended(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    _, handle = await opened(target, tracker_run(experiment, note="first"))
    assert (await target.write(handle, Batch(note="second"))).changes == ()
    assert (await target.write(handle, Batch(note="third"))).changes == ()
    (held,) = mlflow_driver.oracle(experiment)
    assert held.note == "third"


@pytest.mark.parametrize("edit", ["mine now", ""])
async def test_a_note_that_a_person_edited_is_theirs(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str, edit: str
) -> None:
    _, handle = await opened(target, tracker_run(experiment, note="ours"))
    mlflow_driver.client.set_tag(handle.id, "mlflow.note.content", edit)
    (change,) = (await target.write(handle, Batch(note="ours, later", tags={"a": "b"}))).changes
    assert (change.item, change.reason) == ("note", "NoteKept")
    (held,) = mlflow_driver.oracle(experiment)
    assert (held.note, held.tags["a"]) == (edit, "b")


async def test_a_run_without_a_note_gets_one_later(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    _, handle = await opened(target, tracker_run(experiment, note=""))
    await target.write(handle, Batch(note="now"))
    (held,) = mlflow_driver.oracle(experiment)
    assert held.note == "now"


async def test_a_note_costs_one_read_only_when_it_changes(proxy: Proxy, through: MlflowTarget, experiment: str) -> None:
    _, handle = await opened(through, tracker_run(experiment))
    proxy.log.clear()
    await through.write(handle, Batch(note="new", tags={"a": "b"}))
    assert [s.path.rpartition("mlflow/")[2] for s in proxy.log] == ["runs/get", "runs/log-batch"]


async def test_people_find_user_source_and_commit_where_mlflow_shows_them(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    await send(target, tracker_run(experiment))
    (held,) = mlflow_driver.oracle(experiment)
    shown = {
        k: held.tags[k] for k in ("mlflow.user", "mlflow.source.name", "mlflow.source.git.commit", "mlflow.runName")
    }
    assert shown == {
        "mlflow.user": "ada@example.com", "mlflow.source.name": "churn", "mlflow.source.git.commit": "0a1b2c3d",
        "mlflow.runName": "churn-x7k2p",
    }  # fmt: skip


async def test_what_was_changed_is_on_record_in_mlflow_too(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    run, _ = await send(target, tracker_run(
        experiment, params={"top_5%": "x" * 7000},
        metrics=(point("n", 2**53 + 1), point("f@10", math.inf), point("s", math.inf, 1), point("s", 1.0, 2)),
    ))  # fmt: skip
    (held,) = mlflow_driver.oracle(experiment)
    assert held.tags["pipetrail.name.top_5_pct"] == "top_5%"
    assert held.tags["pipetrail.name.f_at_10"] == "f@10"
    assert held.tags["pipetrail.exact.n"] == "9007199254740993"
    assert held.tags["pipetrail.exact.f_at_10"] == "Infinity"
    assert json.loads(held.tags["pipetrail.exact.s"]) == {"1": "Infinity"}
    assert held.tags["pipetrail.cut.top_5_pct"].startswith("7000 characters, sha256 ")
    assert {(c.item, c.key, c.reason) for c in run.changes} == {
        ("param", "top_5%", "Renamed"), ("param", "top_5%", "ValueCut"), ("metric", "f@10", "Renamed"),
        ("metric", "n", "IntegerRounded"), ("metric", "f@10", "InfinityClamped"), ("metric", "s", "InfinityClamped"),
    }  # fmt: skip


FILES = (
    File(path="pipetrail/artifacts.json", media_type="application/json", data=b'{"a": 1}'),
    File(path="pipetrail/a b é.md", media_type="text/markdown", data="größe".encode()),
)


async def test_small_files_lie_with_the_run(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str, tmp_path: Path
) -> None:
    _, handle = await opened(target, tracker_run(experiment))
    for _ in range(2):
        assert (await target.write(handle, Batch(files=FILES))).changes == ()
    mlflow_driver.client.download_artifacts(handle.id, "pipetrail", str(tmp_path))
    assert {p.name: p.read_bytes() for p in (tmp_path / "pipetrail").iterdir()} == {
        "artifacts.json": b'{"a": 1}', "a b é.md": "größe".encode(),
    }  # fmt: skip


async def test_files_that_lie_with_the_run_as_they_are_need_not_be_sent_again(
    target: MlflowTarget, experiment: str, tmp_path: Path
) -> None:
    _, handle = await opened(target, tracker_run(experiment))
    assert await target.kept(handle, FILES) == frozenset()
    await target.write(handle, Batch(files=FILES))
    assert await target.kept(handle, FILES) == {f.path for f in FILES}
    other = replace(FILES[0], data=b'{"a": 2}')
    assert await target.kept(handle, (other, FILES[1])) == {FILES[1].path}
    assert await target.kept(replace(handle, artifacts=tmp_path.as_uri()), FILES) == frozenset()


async def test_a_file_that_would_leave_the_run_stays_in_it(
    mlflow_driver: MlflowDriver, target: MlflowTarget, experiment: str
) -> None:
    evil = tracker_run(experiment, files=(File(path="../../evil.txt", media_type="text/plain", data=b"x"),))
    run, handle = await opened(target, evil)
    assert [(c.item, c.key, c.reason) for c in run.changes] == [("file", "../../evil.txt", "Renamed")]
    await target.write(handle, Batch(files=run.files))
    await target.write(handle, Batch(files=evil.files))
    assert [f.path for f in mlflow_driver.client.list_artifacts(handle.id)] == ["evil.txt"]
    lies_at = [p.parent.name for p in (mlflow_driver.server.folder / "artifacts").rglob("evil.txt")]
    assert lies_at == ["artifacts"]


async def test_files_of_a_run_whose_artifacts_lie_in_a_folder_are_written_there(
    target: MlflowTarget, experiment: str, tmp_path: Path
) -> None:
    _, handle = await opened(target, tracker_run(experiment))
    root = tmp_path / "shared" / "run" / "artifacts"
    (tmp_path / "shared").mkdir()
    receipt = await target.write(replace(handle, artifacts=root.as_uri()), Batch(files=FILES[:1]))
    assert receipt.changes == ()
    assert (root / "pipetrail" / "artifacts.json").read_bytes() == b'{"a": 1}'


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("file:///nowhere/at/all/run/artifacts", "--serve-artifacts"), ("dbfs:/x/y", "dbfs:"), ("ftp://h/x", "ftp:"),
        ("mlflow-artifacts://other.example.com/1/2/artifacts", "mlflow-artifacts:"),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_brought_is_a_change(
    target: MlflowTarget, experiment: str, root: str, says: str
) -> None:
    _, handle = await opened(target, tracker_run(experiment))
    receipt = await target.write(replace(handle, artifacts=root), Batch(files=FILES[:1]))
    (change,) = receipt.changes
    assert (change.item, change.key, change.reason) == ("file", "pipetrail/artifacts.json", "FileNotUploaded")
    assert says in change.detail


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
async def test_an_upload_that_is_given_up_leaves_no_process(
    target: MlflowTarget, experiment: str, tmp_path: Path
) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    _, handle = await opened(target, tracker_run(experiment))
    before = children()
    root = (tmp_path / "run" / "artifacts").as_uri()
    upload = asyncio.create_task(target.write(replace(handle, artifacts=root), Batch(files=FILES)))
    await asyncio.sleep(0.3)
    assert children() > before
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert children() == before


async def test_a_server_that_serves_no_artifacts_still_gets_all_else(
    mlflow_driver: MlflowDriver, proxy: Proxy, through: MlflowTarget, experiment: str
) -> None:
    run, handle = await opened(through, tracker_run(experiment))
    proxy.decide = lambda seen: Answer(503, b"Artifact store is away") if seen.method == "PUT" else Pass()
    with pytest.raises(Retry):
        await through.write(handle, replace_files(everything(run)))
    (held,) = mlflow_driver.oracle(experiment)
    assert differences(run, held) == ()
    proxy.decide = lambda seen: Answer(413, b"too large") if seen.method == "PUT" else Pass()
    receipt = await through.write(handle, replace_files(everything(run)))
    assert [c.reason for c in receipt.changes] == ["FileNotUploaded", "FileNotUploaded"]


def replace_files(batch: Batch) -> Batch:
    return replace(batch, files=FILES)


async def test_it_works_below_a_path(plain_mlflow: Server, mlflow_driver: MlflowDriver, experiment: str) -> None:
    people = "https://mlflow.example.com/team/"
    async with (
        Proxy(plain_mlflow.url, prefix="/mlflow") as ingress,
        calling(f"{ingress.url}/", ui_uri=people) as target,
    ):
        assert (await target.check()).version
        run, handle = await send(target, tracker_run(experiment))
        assert (await target.write(handle, Batch(files=FILES))).changes == ()
        assert handle.url.startswith("https://mlflow.example.com/team/#/experiments/")
        async with calling(ingress.url.removesuffix("/mlflow")) as wrong:
            with pytest.raises(Unusable) as caught:
                await wrong.check()
            assert caught.value.reason == "NotMlflow"
    (held,) = mlflow_driver.oracle(experiment)
    assert differences(run, held) == ()


async def test_a_host_name_that_mlflow_does_not_allow_is_said_so(plain_mlflow: Server) -> None:
    async with Proxy(plain_mlflow.url, host="mlflow.kubeflow.svc:5000") as misnamed, calling(misnamed.url) as target:
        with pytest.raises(Unusable) as caught:
            await target.check()
    assert caught.value.reason == "InvalidHostHeader"
    assert "--allowed-hosts" in caught.value.message


async def test_basic_auth_lets_in_who_it_should(login_mlflow: Server, experiment: str) -> None:
    driver = MlflowDriver(login_mlflow)
    async with calling(driver.url, auth=driver.auth) as target:
        assert (await target.check()).version
        run, handle = await send(target, tracker_run(experiment))
        assert (await target.write(handle, Batch(files=FILES, note="new"))).changes == ()
        assert [h.handle.id for h in await target.find(run)] == [handle.id]
        assert differences(run, await target.read(handle)) == ()
    (held,) = driver.oracle(experiment)
    assert differences(run, held) == ()


@pytest.mark.parametrize(
    "auth", [NoAuth(), Basic(user="admin", password="wrong"), Bearer(token="not-a-login")], ids=repr
)
async def test_basic_auth_keeps_out_who_it_should(login_mlflow: Server, auth: Auth) -> None:
    async with calling(login_mlflow.url, auth=auth) as target:
        with pytest.raises(Unauthorised) as caught:
            await target.check()
    assert caught.value.reason == "AuthenticationFailed"


async def test_a_user_without_the_permission_is_told_so(login_mlflow: Server, experiment: str) -> None:
    driver = MlflowDriver(login_mlflow)
    reader = Basic(user="reader", password="a long enough password")
    async with (
        calling(driver.url, auth=driver.auth) as admin,
        aiohttp.ClientSession(headers=header(driver.auth)) as session,
    ):
        _, handle = await opened(admin, tracker_run(experiment))
        new = {"username": reader.user, "password": reader.password}
        async with session.post(f"{driver.url}/api/2.0/mlflow/users/create", json=new) as answer:
            assert answer.status == 200
    async with calling(driver.url, auth=reader) as target:
        assert (await target.check()).version
        with pytest.raises(Unauthorised) as caught:
            await target.write(handle, Batch(tags={"a": "b"}))
    assert caught.value.reason == "PermissionDenied"


async def test_the_operator_never_imports_mlflow(plain_mlflow: Server, experiment: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from tests.contract.test_contract import *\n"
        "from pipetrail.targets.mlflow.target import MlflowTarget\n"
        "async def main():\n"
        f"    target = MlflowTarget({plain_mlflow.url!r})\n"
        f"    await send(target, tracker_run({experiment!r}))\n"
        "    await target.close()\n"
        "asyncio.run(main())\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'mlflow'])\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": ".", "PATH": ""}
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


async def test_the_compare_link_names_all_children(target: MlflowTarget, experiment: str) -> None:
    run, parent = await opened(target, tracker_run(experiment))
    children = [await target.open(replace(run, key=f"c{i}"), parent) for i in range(3)]
    note = target.describe(run, children)
    assert note.endswith(run.note)
    link = note.partition("(")[2].partition(")")[0]
    query = urllib.parse.parse_qs(link.partition("?")[2])
    assert json.loads(query["runs"][0]) == [c.id for c in children]
    assert json.loads(query["experiments"][0]) == [parent.experiment_id]
    assert query["workflowType"] == ["machine_learning"]
    assert (await target.write(parent, Batch(note=note))).changes == ()


def test_the_longest_note_with_the_longest_link_fits_a_tag() -> None:
    target = MlflowTarget("http://127.0.0.1:1", ui_uri="https://mlflow.example.com/" + "x" * 200)
    children = [Handle(id=f"{i:032x}", experiment_id="1234567890") for i in range(250)]
    run = target.fit(tracker_run("e", note="n" * 9000))
    note = target.describe(run, children)
    assert len(note) <= 8000
    assert "the first " in note
    assert note.endswith("n" * 3600)
    assert target.describe(run, children[:1]) == run.note


def test_msgspec_writes_floats_so_that_they_come_back() -> None:
    for value in (0.1, 1e16, 5e-324, 1.7976931348623157e308, 1.0, -2.5e-8):
        assert json.loads(msgspec.json.encode(value)) == value
