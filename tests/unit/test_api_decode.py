"""A target is read without an exception, and by the same law as the API server's."""

import json

import msgspec
import pytest
from tests.target_cases import ACCEPTED, REFUSED, spec

from pipetrail import api


def body(spec, kind="TrackingTarget", **metadata):
    meta = {"name": "mlflow", "namespace": "team-a", "uid": "u-1", "generation": 3, **metadata}
    return {"apiVersion": api.API_VERSION, "kind": kind, "metadata": meta, "spec": spec}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_wrong_target_is_refused_by_field_and_fix(case):
    found = api.decode_target(body(case.spec))
    assert isinstance(found, api.InvalidTarget)
    assert found.reason == "InvalidSpec"
    assert case.field in found.message or case.typed
    assert case.fix in found.message


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_right_target_is_found(name):
    found = api.decode_target(body(ACCEPTED[name]))
    assert isinstance(found, api.FoundTarget), found
    assert found.ref == api.TargetRef(kind="TrackingTarget", namespace="team-a", name="mlflow")
    assert (found.uid, found.generation) == ("u-1", 3)


def test_a_bare_on_is_on():
    found = api.decode_target(body(spec(capture={"stdout": True})))
    assert isinstance(found, api.FoundTarget)
    assert found.spec.capture.stdout == "On"


def test_a_cluster_target_has_no_namespace_and_may_select_some():
    found = api.decode_target(body(spec(namespaceSelector={"matchLabels": {"team": "a"}}), "ClusterTrackingTarget"))
    assert isinstance(found, api.FoundTarget)
    assert found.ref == api.TargetRef(kind="ClusterTrackingTarget", name="mlflow")
    assert isinstance(found.spec, api.ClusterTargetSpec)
    assert found.spec.namespace_selector == api.LabelSelector(match_labels={"team": "a"})


def test_a_target_knows_when_it_was_made():
    found = api.decode_target(body(spec(), creationTimestamp="2026-11-24T10:00:00Z"))
    assert isinstance(found, api.FoundTarget)
    assert found.created.isoformat() == "2026-11-24T10:00:00+00:00"


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], "text", 7, {}, {"kind": "TrackingTarget"}, {"metadata": None}, {"metadata": {"name": 3}},
        {"apiVersion": api.API_VERSION, "kind": "Pod", "metadata": {"name": "x"}, "spec": spec()},
        body(None), body([]), body(spec(), namespace=None), body(spec(), name=None), body(spec("http://[")),
        body(spec("http://" + "a" * 70000)), body(spec(delivery={"concurrency": 10**400})),
        body(spec(select={"runSelector": {"matchLabels": {"a": 1}}})),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_target_at_all_is_invalid_and_no_exception(wrong):
    found = api.decode_target(wrong)
    assert isinstance(found, api.InvalidTarget)
    assert found.message


def test_a_spec_nested_beyond_reason_is_invalid_and_no_exception():
    deep = spec()
    inner = deep["backend"]["mlflow"]
    for _ in range(100_000):
        inner["auth"] = {}
        inner = inner["auth"]
    assert isinstance(api.decode_target(body(deep)), api.InvalidTarget)


def test_odd_metadata_does_not_keep_a_target_from_working():
    found = api.decode_target(body(spec(), generation="x", labels=[1], creationTimestamp=12, uid=None))
    assert isinstance(found, api.FoundTarget)
    assert (found.generation, found.labels, found.uid) == (0, {}, "")


@pytest.mark.parametrize(
    ("text", "expected"), [("1h30m", 5400.0), ("168h", 604800.0), ("1.5h", 5400.0), ("500ms", 0.5), ("10s", 10.0)]
)
def test_a_duration_is_read_as_go_reads_it(text, expected):
    assert api.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "7d", "30", "h", "1h ", "-1h", "1h\n", "٣h"])
def test_what_is_no_duration_is_an_error_that_shows_how(text):
    with pytest.raises(ValueError, match="30s, 10m or 168h"):
        api.seconds(text)


def test_the_name_of_a_tracked_run_is_the_same_for_ever():
    target = api.TargetRef(kind="TrackingTarget", namespace="team-a", name="mlflow")
    assert api.tracked_run_name("train-x7k2p", "5b1c", target) == "train-x7k2p-0333991870"
    assert api.tracked_run_name("train-x7k2p", "5b1c", target, attempt=2) == "train-x7k2p-5c554c6ad0"


def test_a_pinned_policy_comes_back_as_it_was_written():
    pinned = api.Policy(naming=api.Naming(experiment="a", layout="Flat"), redact=api.Redact(additional_keys=("*_dsn",)))
    stored = json.loads(json.dumps(api.to_json(pinned)))
    assert msgspec.convert(stored, api.Policy) == pinned


def test_counts_that_went_back_to_zero_are_written():
    assert api.to_json(api.SyncCounts()) == {"synced": 0, "pending": 0, "failed": 0, "lastSync": ""}
