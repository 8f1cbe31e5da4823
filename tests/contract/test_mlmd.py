"""The client of KFP's metadata store against the genuine store, and against servers that are broken in its place."""

import asyncio
import base64
import contextlib
import json
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from tests.real import mlmd
from tests.real.mlmd_broken import CALLS, CANARY, broken

from pipetrail import recording_mlmd
from pipetrail.formats.protobuf import encoded
from pipetrail.readers.mlmd import DEFAULT, Limits, Mlmd
from pipetrail.readers.mlmd_messages import RUN_TYPE
from pipetrail.sources.kfp_v2.metadata import Event, NoMetadata, RunMetadata

DATA = Path(__file__).parents[1] / "data" / "kfp"
IRIS = "bb00035d-e857-4553-9627-a97f82426c8e"
CACHED = "7a2704ba-7a36-4c89-8cac-b5931541e303"
LOOPS = "80b6b870-4d2c-4124-965d-ccae8d8d3184"
FAILS = "74e90376-8ba2-42b2-99d7-316e82c5a566"
FOUR = list(CALLS)
QUICK = Limits(call_s=0.5, pause_s=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[mlmd.Store]:
    with mlmd.serving(mlmd.copied(DATA / "mlmd.sqlite", tmp_path_factory.mktemp("mlmd") / "mlmd.sqlite", {})) as made:
        yield made


@contextlib.asynccontextmanager
async def client(address: str, limits: Limits = DEFAULT) -> AsyncIterator[tuple[Mlmd, list[str]]]:
    calls: list[str] = []
    made = Mlmd(address, limits=limits, called=calls.append)
    try:
        yield made, calls
    finally:
        await made.close()


def changed(store: mlmd.Store, *statements: str) -> None:
    """Rows that someone else wrote into the store."""
    with contextlib.closing(sqlite3.connect(store.file, timeout=30)) as file, file:
        for statement in statements:
            file.execute(statement)


def made_run(context: int, name: str, namespace: str) -> list[str]:
    """A run's context, as KFP's driver makes it."""
    values = f"VALUES ({context}, 'namespace', 1, '{namespace}')"
    return [
        f"INSERT INTO Context (id, type_id, name) SELECT {context}, id, '{name}' FROM Type WHERE name = '{RUN_TYPE}'",
        f"INSERT INTO ContextProperty (context_id, name, is_custom_property, string_value) {values}",
    ]


def context_answer(name: str, namespace: str) -> bytes:
    """What the store says of such a run."""
    property_ = encoded({1: "namespace", 2: encoded({3: namespace})})
    return encoded({1: encoded({1: 1, 3: name, 5: property_, 6: RUN_TYPE})})


def outline(found) -> object:
    return found.reason if isinstance(found, NoMetadata) else found


# --- the genuine store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "executions", "artifacts", "events"),
    [(IRIS, 4, 11, 13), (CACHED, 4, 11, 13), (LOOPS, 19, 13, 14), (FAILS, 4, 5, 5)],
)
async def test_a_run_is_read_whole_in_four_calls(store, run, executions, artifacts, events):
    async with client(store.address) as (reader, calls):
        found = await reader.run("kubeflow", run)
    assert isinstance(found, RunMetadata)
    assert (found.run_id, found.namespace) == (run, "kubeflow")
    assert (len(found.executions), len(found.artifacts), len(found.events)) == (executions, artifacts, events)
    assert calls == FOUR


async def test_a_recordings_file_reads_as_the_genuine_store_answers(store):
    def by_id(run: RunMetadata) -> object:
        artifacts, executions = ({one.id: one for one in some} for some in (run.artifacts, run.executions))
        return run.run_id, run.namespace, executions, artifacts, set(run.events)

    async with client(store.address) as (reader, _):
        for run in (IRIS, CACHED, LOOPS, FAILS):
            assert by_id(await reader.run("kubeflow", run)) == by_id(recording_mlmd.read(store.file, run))


async def test_values_are_what_the_store_holds(store):
    async with client(store.address) as (reader, _):
        found = await reader.run("kubeflow", IRIS)
    train = next(e for e in found.executions if e.custom["task_name"] == "train")
    assert (train.type, train.state, train.created_ms) == ("system.ContainerExecution", "COMPLETE", 1795465276290)
    assert train.custom["outputs"] == {"Output": 0.9533333333333334}
    assert train.custom["inputs"] == {
        "epochs": 4.0, "learning_rate": 0.05, "options": {"l1": 0.1, "l2": 0.2}, "shuffle": True, "tags": ["a", "b"],
    }  # fmt: skip
    metrics = next(a for a in found.artifacts if a.type == "system.Metrics" and "/train/" in a.uri)
    numbers = {k: v for k, v in metrics.custom.items() if k not in ("display_name", "store_session_info")}
    assert numbers == {
        "accuracy": 0.953333, "big": 1.5e300, "converged": 1, "epochs_done": 4.0, "loss": 0.12,
        "name with space/slash": 7.0, "zero": 0.0,
    }  # fmt: skip
    assert Event(execution_id=train.id, artifact_id=metrics.id, kind="OUTPUT", path=("metrics",)) in found.events


async def test_what_a_cached_run_shows_are_the_artifacts_of_the_first(store):
    async with client(store.address) as (reader, _):
        cached, first = await reader.run("kubeflow", CACHED), await reader.run("kubeflow", IRIS)
    assert {e.state for e in cached.executions if e.type == "system.ContainerExecution"} == {"CACHED"}
    assert {a.id for a in cached.artifacts} == {a.id for a in first.artifacts}


async def test_of_a_run_that_is_read_again_only_what_changed_is_asked_for(store):
    async with client(store.address) as (reader, calls):
        first = await reader.run("kubeflow", FAILS)
        calls.clear()
        assert await reader.run("kubeflow", FAILS) == first
        assert calls == ["GetExecutionsByContext"]
        calls.clear()
        flaky = next(e.id for e in first.executions if e.custom["task_name"] == "flaky")
        changed(store, f"UPDATE Execution SET last_update_time_since_epoch = 1795470000000 WHERE id = {flaky}")
        again = await reader.run("kubeflow", FAILS)
    assert calls == ["GetExecutionsByContext", "GetEventsByExecutionIDs", "GetArtifactsByID"]
    assert set(again.events) == set(first.events)
    assert {a.id: a for a in again.artifacts} == {a.id: a for a in first.artifacts}
    assert next(e for e in again.executions if e.id == flaky).updated_ms == 1795470000000


async def test_all_runs_share_one_connection(store):
    before = store.connections()
    async with client(store.address) as (reader, calls):
        found = await asyncio.gather(*(reader.run("kubeflow", run) for run in (IRIS, CACHED, LOOPS, FAILS)))
    assert all(isinstance(one, RunMetadata) for one in found)
    assert Counter(calls) == Counter(FOUR * 4)
    assert len(store.connections() - before) == 1


async def test_more_executions_than_a_page_holds_are_read_page_by_page(store):
    run = "many"
    changed(
        store,
        *made_run(900, run, "team"),
        "INSERT INTO Execution (id, type_id, last_known_state) WITH RECURSIVE n(i) AS "
        "(SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1249) "
        "SELECT i, t.id, 3 FROM n, Type t WHERE t.name = 'system.ContainerExecution'",
        "INSERT INTO Association (context_id, execution_id) SELECT 900, id FROM Execution WHERE id >= 1000",
    )
    async with client(store.address) as (reader, calls):
        found = await reader.run("team", run)
    assert sorted(e.id for e in found.executions) == list(range(1000, 1250))
    assert calls == [FOUR[0], *[FOUR[1]] * 3, FOUR[2]]
    async with client(store.address, Limits(executions=200)) as (reader, calls):
        found = await reader.run("team", run)
    assert (found.reason, found.again) == ("MlmdTooMuch", False)
    assert calls == [FOUR[0], *[FOUR[1]] * 2]


async def test_a_run_of_another_namespace_is_refused_and_nothing_of_it_is_said(store):
    async with client(store.address) as (reader, calls):
        found = await reader.run("team-b", IRIS)
    assert found == NoMetadata(
        reason="MlmdOtherNamespace",
        message="KFP's metadata store has a run of this id in another namespace: nothing of it is taken",
    )
    assert calls == FOUR[:1]


@pytest.mark.parametrize("run", ["00000000-0000-0000-0000-000000000000", "nothing/like an id", "", "a" * 64])
async def test_a_run_that_the_store_does_not_know(store, run):
    async with client(store.address) as (reader, _):
        found = await reader.run("kubeflow", run)
    assert (found.reason, found.again) == ("MlmdRunUnknown", False)


async def test_a_context_of_the_same_name_that_is_no_run_is_none(store):
    changed(
        store,
        "INSERT INTO Context (id, type_id, name) SELECT 910, id, 'twin' FROM Type WHERE name = 'system.Pipeline'",
        f"INSERT INTO Context (id, type_id, name) SELECT 911, id, '{LOOPS}' FROM Type WHERE name = 'system.Pipeline'",
    )
    async with client(store.address) as (reader, _):
        assert outline(await reader.run("kubeflow", "twin")) == "MlmdRunUnknown"
        assert len((await reader.run("kubeflow", LOOPS)).executions) == 19


async def test_contexts_that_are_each_others_parents_change_nothing(store):
    changed(
        store,
        *(
            "INSERT OR IGNORE INTO ParentContext (context_id, parent_context_id) SELECT a.id, b.id "
            f"FROM Context a, Context b WHERE a.name = '{one}' AND b.name = '{other}'"
            for one, other in ((LOOPS, FAILS), (FAILS, LOOPS), (LOOPS, LOOPS))
        ),
    )
    async with client(store.address) as (reader, calls):
        assert len((await reader.run("kubeflow", LOOPS)).executions) == 19
    assert calls == FOUR


async def test_a_run_that_has_begun_nothing_has_no_metadata(store):
    changed(
        store,
        *made_run(920, "empty", "team"),
    )
    async with client(store.address) as (reader, _):
        assert outline(await reader.run("team", "empty")) == "MlmdEmpty"


async def test_a_store_that_was_away_is_found_again(tmp_path):
    file = mlmd.copied(DATA / "mlmd.sqlite", tmp_path / "mlmd.sqlite", {})
    with mlmd.serving(file) as own:
        async with client(own.address, Limits(pause_s=0.2)) as (reader, _):
            first = await reader.run("kubeflow", IRIS)
            own.stop()
            away = await reader.run("kubeflow", IRIS)
            assert (outline(away), away.again) == ("MlmdUnreachable", True)
            own.start()
            for _ in range(200):
                found = await reader.run("kubeflow", IRIS)
                if isinstance(found, RunMetadata):
                    break
                await asyncio.sleep(0.1)
            assert found == first


# --- servers that are none of it ------------------------------------------------------------------------------------


def recorded() -> dict[str, bytes]:
    lines = json.loads((DATA / "mlmd-answers.json").read_text())
    return {line["method"]: base64.b64decode(line["answer"]) for line in lines}


async def test_recorded_answers_read_as_the_genuine_store_does(store):
    async with (
        broken(recorded()) as address,
        client(address) as (of_recorded, _),
        client(store.address) as (genuine, _),
    ):
        assert await of_recorded.run("kubeflow", CACHED) == await genuine.run("kubeflow", CACHED)


@pytest.mark.parametrize("method", FOUR)
@pytest.mark.parametrize(
    "garbage", [b"\x00\xff garbage", b"<html>no</html>", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\x08"]
)
async def test_garbage_in_any_answer_is_said_and_tried_again(method, garbage):
    async with broken({**recorded(), method: garbage}) as address, client(address, QUICK) as (reader, _):
        found = await reader.run("kubeflow", CACHED)
    assert (outline(found), found.again) == ("MlmdGarbage", True)


@pytest.mark.parametrize(
    ("code", "reason", "again"),
    [
        (grpc.StatusCode.UNAVAILABLE, "MlmdUnreachable", True),
        (grpc.StatusCode.PERMISSION_DENIED, "MlmdForbidden", True),
        (grpc.StatusCode.UNAUTHENTICATED, "MlmdForbidden", True),
        (grpc.StatusCode.UNIMPLEMENTED, "MlmdRefused", True),
        (grpc.StatusCode.ABORTED, "MlmdRefused", True),
        (grpc.StatusCode.INTERNAL, "MlmdRefused", True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "MlmdTooMuch", False),
    ],
)
async def test_what_a_server_refuses_is_said_without_its_words(code, reason, again):
    async with broken({**recorded(), FOUR[1]: code}) as address, client(address, QUICK) as (reader, _):
        found = await reader.run("kubeflow", CACHED)
    assert (outline(found), found.again) == (reason, again)
    assert CANARY not in found.message


@pytest.mark.parametrize("slow", FOUR)
async def test_a_server_that_does_not_answer_is_left_after_the_time_of_a_call(slow):
    answers = {method: answer for method, answer in recorded().items() if method != slow}
    async with broken(answers) as address, client(address, QUICK) as (reader, _):
        began = time.monotonic()
        found = await reader.run("kubeflow", CACHED)
        assert time.monotonic() - began < 15
    assert (outline(found), found.again) == ("MlmdSlow", True)


async def test_all_calls_together_have_a_deadline():
    pages = {**recorded(), FOUR[1]: None}
    del pages[FOUR[1]]
    async with broken(pages) as address, client(address, Limits(call_s=20, all_s=0.5)) as (reader, _):
        began = time.monotonic()
        found = await reader.run("kubeflow", CACHED)
        assert time.monotonic() - began < 15
    assert (outline(found), found.again) == ("MlmdSlow", True)


async def test_while_the_store_is_away_no_other_run_waits_for_it():
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it accepts, and never says a word
        async with client(f"127.0.0.1:{deaf.getsockname()[1]}", Limits(call_s=0.5, pause_s=60)) as (reader, calls):
            found = [await reader.run("kubeflow", IRIS)]
            began = time.monotonic()
            found += [await reader.run("kubeflow", run) for run in (CACHED, LOOPS, FAILS) * 20]
            assert time.monotonic() - began < 15  # 30, if each waited as the first did
    assert {(outline(one), one.again) for one in found} <= {("MlmdSlow", True), ("MlmdUnreachable", True)}
    assert len(calls) == 1


async def test_a_web_server_at_the_address_is_no_store():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with web, client(f"127.0.0.1:{web.sockets[0].getsockname()[1]}", QUICK) as (reader, _):
        found = await reader.run("kubeflow", IRIS)
    assert outline(found) in ("MlmdUnreachable", "MlmdSlow")
    assert found.again


async def test_a_million_artifacts_are_not_taken():
    events = b"".join(encoded({1: encoded({1: n, 2: 4, 4: 4})}) for n in range(1, 1_000_001))
    answers = {
        FOUR[0]: context_answer("run", "team"),
        FOUR[1]: encoded({1: encoded({1: 4, 7: "system.ContainerExecution"})}),
        FOUR[2]: events,
    }
    async with broken(answers) as address, client(address) as (reader, calls):
        began = time.monotonic()
        found = await reader.run("team", "run")
        took = time.monotonic() - began
    assert (outline(found), found.again) == ("MlmdTooMuch", False)
    assert calls == FOUR[:3]
    assert took < 30


async def test_an_answer_that_is_bigger_than_a_message_may_be_is_not_taken():
    answers = {**recorded(), FOUR[3]: b"\x00" * (2 << 20)}
    async with broken(answers) as address, client(address, Limits(message_bytes=1 << 20)) as (reader, _):
        found = await reader.run("kubeflow", CACHED)
    assert (outline(found), found.again) == ("MlmdTooMuch", False)


async def test_pages_that_never_end_are_left():
    page = recorded()[FOUR[1]] + encoded({2: "and so on"})
    async with (
        broken({**recorded(), FOUR[1]: page}) as address,
        client(address, Limits(executions=1000)) as (reader, calls),
    ):
        found = await reader.run("kubeflow", CACHED)
    assert (outline(found), found.again) == ("MlmdTooMuch", False)
    assert calls == [FOUR[0], *[FOUR[1]] * 10]


async def test_another_context_than_was_asked_for_is_not_taken():
    async with (
        broken({**recorded(), FOUR[0]: context_answer("other", "team")}) as address,
        client(address) as (reader, _),
    ):
        assert outline(await reader.run("team", "run")) == "MlmdOtherContext"


async def test_events_and_artifacts_that_nobody_asked_for_are_left_out():
    foreign = encoded({1: encoded({1: 999, 2: 999, 4: 4})})
    answers = recorded()
    answers[FOUR[2]] += foreign
    answers[FOUR[3]] += encoded({1: encoded({1: 998, 3: "s3://other/team"})})
    async with broken(answers) as address, client(address) as (reader, _):
        found = await reader.run("kubeflow", CACHED)
    assert {e.execution_id for e in found.events} <= {e.id for e in found.executions}
    assert not {998, 999} & {a.id for a in found.artifacts}
