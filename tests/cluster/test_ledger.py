"""The ledger against a real API server: intents stand once, claims move by version, settled entries are small."""

import json

import pytest

from pipetrail import api
from pipetrail.delivery.ledger import Ledger, Lost, changes, partials
from pipetrail.kube import TRACKED_RUNS, Kube
from pipetrail.record import Partial
from pipetrail.targets.target import Change

pytestmark = pytest.mark.api

POLICY = api.Policy(redact=api.Redact(additional_keys=("*_dsn",)), naming=api.Naming(experiment="all"))


def target(namespace: str) -> api.TargetRef:
    return api.TargetRef(name="mlflow", namespace=namespace)


def run(uid: str) -> api.RunRef:
    return api.RunRef(source="argo", name="churn-sweep-7w6gn", uid=uid, key=f"c/{uid}", pipeline="churn-sweep")


async def intent(ledger: Ledger, namespace: str, uid: str = "u1"):
    return await ledger.intent(namespace, run(uid), target(namespace), POLICY, experiment="churn-sweep")


async def test_an_intent_stands_once_however_often_it_is_written(kube: Kube, namespace: str) -> None:
    ledger = Ledger(kube, "one")
    first, new = await intent(ledger, namespace)
    again, fresh = await intent(ledger, namespace)
    assert (new, fresh, again.spec, again.version) == (True, False, first.spec, first.version)


async def test_who_writes_with_an_old_version_loses_its_claim(kube: Kube, namespace: str) -> None:
    mine, theirs = Ledger(kube, "mine"), Ledger(kube, "theirs")
    entry, _ = await intent(mine, namespace)
    taken = await theirs.write(entry, phase="Tracking")
    with pytest.raises(Lost):
        await mine.write(entry, phase="Tracking")
    assert (taken.status.claim.holder, taken.status.claim.epoch) == ("theirs", 1)


async def test_a_claim_that_changes_hands_counts_its_epochs(kube: Kube, namespace: str) -> None:
    entry, _ = await intent(Ledger(kube, "one"), namespace)
    for holder in ("one", "one", "two", "three"):
        entry = await Ledger(kube, holder).write(entry, phase="Tracking")
    assert (entry.status.claim.holder, entry.status.claim.epoch) == ("three", 3)


async def test_a_field_that_goes_back_to_nothing_is_removed(kube: Kube, namespace: str) -> None:
    ledger = Ledger(kube, "one")
    entry, _ = await intent(ledger, namespace)
    entry = await ledger.write(entry, phase="Failed", reason="RunDeleted", message="someone deleted it")
    entry = await ledger.write(entry, phase="Tracking", reason="", message="")
    body = await kube.get(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns/{entry.name}")
    assert {k: body["status"].get(k) for k in ("phase", "reason", "message")} == {
        "phase": "Tracking", "reason": None, "message": None,
    }  # fmt: skip


async def test_a_settled_entry_takes_at_most_two_kibibytes_with_the_most_it_shows(kube: Kube, namespace: str) -> None:
    ledger = Ledger(kube, "operator-0123456789abcdef/1")
    entry, _ = await intent(ledger, namespace, "fcd3c20a-d98b-4935-93b4-118e81a0d9dd")
    many = {
        ("r", "metric", str(n), "Rejected"): Change(
            item="metric", key=f"train/metric-{n}", reason="Rejected", detail="d" * 500
        )
        for n in range(60)
    }
    entry = await ledger.write(
        entry, phase="Synced", external_id="0" * 32, experiment_id="12", outcome="succeeded", digest="0" * 16,
        url="https://mlflow.example.com/#/experiments/12/runs/" + "0" * 32, steps=12, metrics=1200,
        changes=changes(many), partial=partials((Partial(reason="StoreForbidden", message="m" * 600, step="train"),)),
        opened_at="2026-01-01T00:00:00Z", settled_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    size = len(json.dumps([api.to_json(entry.spec), api.to_json(entry.status)]))
    assert (size <= 2048, entry.status.changes.total) == (True, 60)


async def test_the_whole_ledger_is_read_page_by_page(kube: Kube, namespace: str) -> None:
    ledger = Ledger(kube, "one")
    for n in range(5):
        await intent(ledger, namespace, f"u{n}")
    there = sorted([e.spec.run.uid async for e in ledger.entries() if e.namespace == namespace])
    assert there == ["u0", "u1", "u2", "u3", "u4"]


async def test_a_retired_entry_is_gone_and_retiring_it_again_is_fine(kube: Kube, namespace: str) -> None:
    ledger = Ledger(kube, "one")
    entry, _ = await intent(ledger, namespace)
    await ledger.forget(entry)
    await ledger.forget(entry)
    assert await ledger.read(namespace, entry.name) is None


async def forged(kube: Kube, namespace: str, *, name: str = "", **spec: object) -> str:
    """A TrackedRun as someone else may write it: `spec` over what we would have written; its name."""
    true = api.to_json(
        api.TrackedRunSpec(run=run("u1"), target=target(namespace), policy=POLICY, experiment="churn-sweep")
    )
    name = name or api.tracked_run_name("churn-sweep-7w6gn", "u1", target(namespace))
    body = {
        "apiVersion": api.API_VERSION, "kind": "TrackedRun", "metadata": {"name": name}, "spec": {**true, **spec},
    }  # fmt: skip
    await kube.post(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns", body)
    return name


@pytest.mark.parametrize(
    "spec",
    [
        {"policy": {}}, {"experiment": "of-another-team"}, {"supersedes": "0" * 32},
        {"run": {**api.to_json(run("u1")), "key": "c/of-another-team"}},
    ],
    ids=lambda spec: next(iter(spec)),
)  # fmt: skip
async def test_what_stands_where_an_intent_belongs_and_says_something_else_is_replaced(
    kube: Kube, namespace: str, spec: dict[str, object]
) -> None:
    name = await forged(kube, namespace, **spec)
    path = f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns/{name}"
    await kube.patch(f"{path}/status", {"status": {"phase": "Synced", "externalId": "f" * 32}})
    entry, fresh = await intent(Ledger(kube, "one"), namespace)
    assert (entry.spec.policy, entry.spec.experiment, entry.spec.run) == (POLICY, "churn-sweep", run("u1"))
    assert (fresh, entry.status.phase, entry.status.external_id) == (False, "Pending", "")
    assert (await kube.get(path))["spec"] == json.loads(json.dumps(api.to_json(entry.spec)))


async def test_a_tracked_run_of_another_namespaces_target_or_of_a_wrong_name_is_none_of_ours(
    kube: Kube, namespace: str
) -> None:
    ledger = Ledger(kube, "one")
    theirs = api.TargetRef(name="mlflow", namespace="team-b")
    names = [
        await forged(
            kube, namespace, target=api.to_json(theirs), name=api.tracked_run_name("churn-sweep-7w6gn", "u1", theirs)
        ),
        await forged(kube, namespace, name="churn-sweep-7w6gn-0123456789"),
        await forged(
            kube, namespace, attempt=7, name=api.tracked_run_name("churn-sweep-7w6gn", "u1", target(namespace))
        ),
    ]
    assert [await ledger.read(namespace, name) for name in names] == [None, None, None]
    assert [e async for e in ledger.entries() if e.namespace == namespace] == []


async def test_an_entry_that_someone_made_anew_is_not_taken_for_the_one_that_we_wrote(
    kube: Kube, namespace: str
) -> None:
    ledger = Ledger(kube, "one")
    entry, _ = await intent(ledger, namespace)
    entry = await ledger.write(entry, phase="Failed")
    again = await ledger.again(entry)
    assert again is not None
    assert again.status.phase == "Failed"
    await kube.delete(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns/{entry.name}")
    assert await ledger.again(entry) is None
    await forged(kube, namespace, experiment="of-another-team")
    assert await ledger.again(entry) is None
