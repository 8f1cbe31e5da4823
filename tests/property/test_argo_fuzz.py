"""Whatever JSON stands where a Workflow, a pod or a task result should: a record or nothing, never an exception."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.argo_cases import UID, pod, result

from pipetrail import recording
from pipetrail.record import to_json
from pipetrail.sources import argo

RUNS = Path(__file__).parent.parent / "data" / "argo"
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([
        "", "Succeeded", "Failed", "Running", "Pending", "Retry", "DAG", "0001-01-01T00:00:00Z", "2026-11-23T10:00:00Z",
        "9999-12-31T23:59:59-23:59", "2026-11-23", "NaN", "1e999", "\ud800", "{{item}}", "{{tasks.a.outputs.result}}",
        "a" * 5000, "w(0:(", "-1", "9" * 5000,
    ])
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@cache
def recorded() -> list[tuple[Any, argo.RunFacts, list[Any]]]:
    """(last body, facts, bodies of pods and results) of each recording."""
    found = []
    for folder in sorted(p for p in RUNS.iterdir() if p.is_dir()):
        run = recording.load(folder)
        body, facts = run.fold()
        found.append((body, facts, [e.body for e in run.events() if e.kind != "Workflow"][-6:]))
    return found


def spots(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [spot for key, item in inside for spot in spots(item, (*at, key))]


def held(value: Any, key: Any) -> Any:
    """What stands under `key`, if there is still anything: earlier changes may have replaced it."""
    if isinstance(value, dict):
        return value.get(key)
    return value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None


def changed(value: Any, spot: tuple[Any, ...], by: Any) -> None:
    """Replace what stands at `spot`; `...` deletes it."""
    for key in spot[:-1]:
        value = held(value, key)
    if held(value, spot[-1]) is None:
        return
    if by is ...:
        value.pop(spot[-1], None) if isinstance(value, dict) else value.pop(spot[-1])
    else:
        value[spot[-1]] = by


def read_all(body: Any, facts: argo.RunFacts) -> None:
    argo.header(body)
    argo.mark(body)
    to_json(argo.read(body, facts, cluster="c").record).encode()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_recorded_run_with_anything_anywhere_is_still_a_record(data):
    body, facts, _ = data.draw(st.sampled_from(recorded()))
    body = json.loads(json.dumps(body))
    body["status"].pop("artifactGCStatus", None)
    places = [s for s in spots(body) if s[0] != "spec" or len(s) > 1]
    for _ in range(data.draw(st.integers(1, 8))):
        changed(body, data.draw(st.sampled_from(places)), data.draw(JSON | st.just(...)))
    read_all(body, facts)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pods_and_results_with_anything_anywhere_are_facts_or_nothing(data):
    body, _, others = data.draw(st.sampled_from([r for r in recorded() if r[2]]))
    facts = argo.RunFacts()
    for other in others:
        other = json.loads(json.dumps(other))
        for _ in range(data.draw(st.integers(0, 6))):
            changed(other, data.draw(st.sampled_from(spots(other) or [("gone",)])), data.draw(JSON | st.just(...)))
        if (found := argo.pod_facts(other)) is not None:
            facts = facts.with_pod(found)
        if (outputs := argo.result_facts(other)) is not None:
            facts = facts.with_result(outputs)
    read_all(body, facts)


@settings(max_examples=150, deadline=None)
@given(JSON, JSON, JSON)
def test_any_json_is_a_record(body, spec, status):
    facts = argo.RunFacts().with_pod(pod(".a")).with_result(result(".a"))
    read_all(body, facts)
    read_all({"metadata": body, "spec": spec, "status": status}, facts)
    read_all({"metadata": {"uid": UID, "name": "w"}, "status": {"phase": "Running", "nodes": status}}, facts)
    read_all({"metadata": {"name": "w"}, "status": {"phase": "Failed", "nodes": {"w": status, "w-1": spec}}}, facts)
    argo.pod_facts(body)
    argo.result_facts(body)


@pytest.mark.parametrize("key", ["nodes", "outputs", "storedTemplates"])
def test_a_body_nested_very_deep_is_a_record(key):
    deep: Any = "x"
    for _ in range(5000):
        deep = {"value": [deep]}
    read_all(
        {"metadata": {"name": "w"}, "status": {"phase": "Running", key: {"a": deep, "parameters": [deep]}}},
        argo.RunFacts(),
    )


def test_boundaries_that_go_in_a_circle_end():
    nodes = {
        n: {"id": n, "name": f"w.{n}(0:x)", "type": "DAG", "phase": "Running", "boundaryID": b}
        for n, b in (("a", "b"), ("b", "a"), ("c", "c"))
    }
    read_all({"metadata": {"name": "w"}, "status": {"phase": "Running", "nodes": nodes}}, argo.RunFacts())


def live(event: recording.Event) -> bool:
    """What the server-side selectors of the operator's watches let through (design §5)."""
    status = event.body.get("status") or {}
    labels = event.body["metadata"].get("labels") or {}
    match event.kind:
        case "Pod":
            return status.get("phase") not in ("Pending", "Running")
        case "WorkflowTaskResult":
            return labels.get("workflows.argoproj.io/report-outputs-completed") == "true"
    return True


@pytest.mark.parametrize("folder", sorted(p.name for p in RUNS.iterdir() if p.is_dir()))
def test_at_each_event_of_a_recorded_run_what_was_a_point_stays_one(folder):
    """However early a point is seen, and however little of the run: it is the final one, time included."""
    run = recording.load(RUNS / folder)
    for seen in (live, lambda _: True):
        body, facts, ever, now = None, argo.RunFacts(), set(), set()
        for event in filter(seen, run.events()):
            body, facts = run.after(body, facts, event)
            if body is not None:
                now = {
                    (s.path, tuple(i.index for i in s.iteration or ()), p.key, str(p.value), p.time)
                    for s in argo.read(body, facts, cluster="c").record.steps
                    for p in s.points
                }
                ever |= now
        assert ever == now


def test_events_packed_and_plain_are_the_same(tmp_path):
    source = RUNS / "bad-image" / "events.jsonl.gz"
    (tmp_path / "events.jsonl").write_bytes(gzip.decompress(source.read_bytes()))
    plain, packed = recording.load(tmp_path), recording.load(RUNS / "bad-image")
    assert list(plain.events()) == list(packed.events())
