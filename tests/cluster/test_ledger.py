"""The ledger against a real API server: intents stand once, claims move by version, settled entries are small."""

import json

import pytest

from pipetrail import api
from pipetrail.delivery.ledger import Ledger, Lost, changes, partials
from pipetrail.kube import TRACKED_RUNS, Kube
from pipetrail.record import Partial
from pipetrail.targets.target import Change

pytestmark = pytest.mark.api

TARGET = api.TargetRef(name="mlflow", namespace="team-a")


def run(uid: str) -> api.RunRef:
    return api.RunRef(source="argo", name="churn-sweep-7w6gn", uid=uid, key=f"c/{uid}", pipeline="churn-sweep")


async def intent(ledger: Ledger, namespace: str, uid: str = "u1"):
    return await ledger.intent(namespace, run(uid), TARGET, api.Policy(), experiment="churn-sweep")


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
