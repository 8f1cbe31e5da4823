"""Who records a run: each rule by name, with a sentence for ``explain``."""

from datetime import UTC, datetime

import msgspec
import pytest

from pipetrail import api, policy
from pipetrail.policy import Left, RunFacts, Taken
from pipetrail.record import Key, Link, Outcome, Record
from pipetrail.sources.argo import Header

RUN = RunFacts(
    source="argo", namespace="team-a", name="churn-x7k2p", pipeline="churn", labels={"team": "churn"},
    namespace_labels={"kubernetes.io/metadata.name": "team-a", "tenant": "yes"},
)  # fmt: skip


def run(**changes):
    return msgspec.structs.replace(RUN, **changes)


def backend(uri="http://mlflow.mlflow.svc:5000"):
    return api.Backend(mlflow=api.MlflowBackend(tracking_uri=uri))


def target(name="mlflow", namespace="team-a", *, uri="http://mlflow.mlflow.svc:5000", day=1, **spec):
    ref = api.TargetRef(kind="TrackingTarget", namespace=namespace, name=name)
    created = datetime(2026, 11, day, tzinfo=UTC)
    return api.FoundTarget(ref=ref, spec=api.TargetSpec(backend=backend(uri), **spec), created=created)


def cluster_target(name="all", *, uri="http://mlflow.mlflow.svc:5000", selector=None, day=1, **spec):
    ref = api.TargetRef(kind="ClusterTrackingTarget", name=name)
    selector = api.LabelSelector() if selector is None else selector
    made = api.ClusterTargetSpec(backend=backend(uri), namespace_selector=selector, **spec)
    return api.FoundTarget(ref=ref, spec=made, created=datetime(2026, 11, day, tzinfo=UTC))


def rule(decision):
    return decision.rule


FORBIDDEN = api.RunPolicy(opt_out="Forbidden")
TRACK = api.TRACK_LABEL
TARGETS = api.TARGETS_ANNOTATION


def test_the_smallest_target_takes_every_run_of_its_namespace():
    assert policy.decide(RUN, target()) == Taken(policy=api.Policy())


def test_a_target_sees_no_other_namespace():
    assert policy.decide(RUN, target(namespace="team-b")) == Left(
        rule="OtherNamespace",
        why="a TrackingTarget sees the runs of its own namespace, team-b, and it is in team-a",
    )


def test_a_run_of_kubeflow_pipelines_is_recorded_like_any_other():
    assert isinstance(policy.decide(run(source="kfp-v2"), target()), Taken)
    assert isinstance(policy.decide(run(source="kfp-v1"), target()), Taken)


@pytest.mark.parametrize(
    ("source", "sources", "expected"),
    [
        ("kfp-v1", ("KubeflowPipelines",), "Selected"),
        ("kfp-v2", ("KubeflowPipelines",), "Selected"),
        ("kfp-v2", ("Argo", "KubeflowPipelines"), "Selected"),
        ("kfp-v2", ("Argo",), "Sources"),
        ("argo", ("KubeflowPipelines",), "Sources"),
    ],
)
def test_sources_of_a_target_go_by_who_made_the_workflow(source, sources, expected):
    assert rule(policy.decide(run(source=source), target(select=api.Select(sources=sources)))) == expected


def test_what_kfps_own_plugin_records_in_mlflow_is_left_to_it_there_and_recorded_elsewhere():
    tracked = run(source="kfp-v2", mlflow_plugin=True)
    assert policy.decide(tracked, target()) == Left(
        rule="TrackedByKfp", why="Kubeflow Pipelines' own MLflow plugin records it already"
    )
    folder = api.Backend(tensorboard=api.TensorboardBackend(directory="runs"))
    spec = msgspec.structs.replace(target().spec, backend=folder)
    assert isinstance(policy.decide(tracked, msgspec.structs.replace(target(), spec=spec)), Taken)


def test_a_record_that_names_the_plugins_run_tells_it_too():
    made = Record(
        key=Key(cluster="c", uid="u"), source="kfp-v2", name="n", namespace="ns", pipeline="p",
        outcome=Outcome(status="succeeded"), links=(Link(rel="kfp-mlflow-run", href="4f2c"),),
    )  # fmt: skip
    assert policy.tracked_already(made, target().spec) == Left(rule="TrackedByKfp", why=policy.TRACKED_BY_KFP)
    assert policy.tracked_already(msgspec.structs.replace(made, links=()), target().spec) is None


def test_a_cluster_target_takes_the_namespaces_that_it_selects():
    picks = api.LabelSelector(match_labels={"tenant": "yes"})
    assert isinstance(policy.decide(RUN, cluster_target(selector=picks)), Taken)
    assert rule(policy.decide(run(namespace_labels={}), cluster_target(selector=picks))) == "NamespaceNotSelected"
    assert isinstance(policy.decide(run(namespace_labels={}), cluster_target()), Taken)


def test_a_cluster_target_without_a_selector_takes_nothing_and_says_how_to_take_all():
    made = cluster_target()
    made = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, namespace_selector=msgspec.UNSET))
    assert policy.decide(RUN, made) == Left(
        rule="NamespaceNotSelected", why="it has no spec.namespaceSelector and so takes no namespace; {} takes all"
    )


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (api.Select(sources=("Argo",)), "Selected"),
        (api.Select(run_selector=api.LabelSelector(match_labels={"team": "churn"})), "Selected"),
        (api.Select(run_selector=api.LabelSelector(match_labels={"team": "fraud"})), "RunSelector"),
        (api.Select(pipelines=("fraud-*", "ch*")), "Selected"),
        (api.Select(pipelines=("fraud-*", "Churn")), "Pipelines"),
        (api.Select(pipelines=("churn-*",)), "Pipelines"),
    ],
)
def test_the_selection_decides(select, expected):
    assert rule(policy.decide(RUN, target(select=select))) == expected


def test_a_source_that_is_not_named_is_left():
    picks = api.Select(sources=("Argo",))
    assert policy.decide(run(source="katib"), target(select=picks)) == Left(
        rule="Sources", why="spec.select.sources takes Argo, and it is katib"
    )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (run(labels={TRACK: "false"}), "OptOut"),
        (run(labels={TRACK: "False"}), "OptOut"),
        (run(labels={TRACK: "true"}), "Selected"),
        (run(template_labels={TRACK: "false"}), "OptOut"),
        (run(namespace_labels={TRACK: "false"}), "OptOut"),
        (run(labels={TRACK: "true"}, template_labels={TRACK: "false"}), "Selected"),
        (run(template_labels={TRACK: "true"}, namespace_labels={TRACK: "false"}), "Selected"),
        (run(annotations={TARGETS: "mlflow"}), "Selected"),
        (run(annotations={TARGETS: "archive, mlflow"}), "Selected"),
        (run(annotations={TARGETS: "archive"}), "NotAmongTargets"),
        (run(annotations={TARGETS: ""}), "NotAmongTargets"),
        (run(template_annotations={TARGETS: "archive"}), "NotAmongTargets"),
        (run(namespace_annotations={TARGETS: "archive"}), "NotAmongTargets"),
        (run(annotations={TARGETS: "mlflow"}, namespace_annotations={TARGETS: "archive"}), "Selected"),
        (run(labels={TRACK: "false"}, annotations={TARGETS: "mlflow"}), "OptOut"),
    ],
)
def test_authors_of_runs_narrow_and_the_nearest_word_counts(facts, expected):
    assert rule(policy.decide(facts, target())) == expected


def test_what_an_author_wrote_is_quoted():
    assert policy.decide(run(template_annotations={TARGETS: "mlfow"}), target()) == Left(
        rule="NotAmongTargets", why='its template says pipetrail.dev/targets: "mlfow"'
    )


@pytest.mark.parametrize("facts", [run(labels={TRACK: "false"}), run(annotations={TARGETS: "archive"})])
def test_an_admin_may_insist(facts):
    decision = policy.decide(facts, target(policy=FORBIDDEN))
    assert rule(decision) == "OptOutForbidden"
    assert isinstance(decision, Taken)
    assert decision.why.endswith("but spec.policy.optOut is Forbidden")


def test_a_run_that_had_ended_before_the_target_was_made_is_left():
    made = target(day=10)
    assert rule(policy.decide(run(ended=datetime(2026, 11, 9, tzinfo=UTC)), made)) == "EndedBeforeTarget"
    assert rule(policy.decide(run(ended=datetime(2026, 11, 11, tzinfo=UTC)), made)) == "Selected"
    assert rule(policy.decide(run(ended=None), made)) == "Selected"


def test_a_backfill_takes_it_all_the_same_and_opt_outs_and_selection_hold():
    made, old = target(day=10), datetime(2026, 11, 9, tzinfo=UTC)
    assert rule(policy.decide(run(ended=old), made, earlier=True)) == "Selected"
    assert rule(policy.decide(run(ended=old, labels={TRACK: "false"}), made, earlier=True)) == "OptOut"
    assert rule(policy.decide(run(ended=old, namespace="other"), made, earlier=True)) == "OtherNamespace"
    older = cluster_target(selector=api.LabelSelector(), day=5)
    assert rule(policy.decide(run(ended=old), made, others=[older], earlier=True)) == "Selected"
    assert rule(policy.decide(run(ended=old), older, others=[made], earlier=True)) == "Selected"


@pytest.mark.parametrize(
    ("wish", "meant"),
    [
        ({}, True),
        ({"since": datetime(2026, 11, 9, tzinfo=UTC)}, True),
        ({"since": datetime(2026, 11, 9, 0, 0, 1, tzinfo=UTC)}, False),
        ({"namespace": "team-a"}, True),
        ({"namespace": "team-b"}, False),
        ({"pipeline": "churn-*"}, True),
        ({"pipeline": "fraud"}, False),
    ],
)
def test_a_backfill_means_runs_by_their_end_their_namespace_and_their_pipeline(wish, meant):
    wish = api.BackfillWish(asked=datetime(2026, 12, 1, tzinfo=UTC), **wish)
    ended = datetime(2026, 11, 9, tzinfo=UTC)
    header = Header(uid="u", name="r", namespace="team-a", pipeline="churn-sweep", finished=ended)
    assert policy.wanted(header, wish) is meant
    assert not policy.wanted(Header(uid="u", name="r", namespace="team-a", pipeline="churn-sweep"), wish)


def test_a_suspended_target_still_selects():
    assert isinstance(policy.decide(RUN, target(suspend=True)), Taken)


def test_of_two_targets_at_one_address_the_namespaced_one_takes_the_run():
    near, far = target(), cluster_target()
    assert [rule(d) for _, d in policy.decide_all(RUN, (far, near))] == ["SameTracker", "Selected"]
    assert policy.decide(RUN, far, others=(near,)) == Left(
        rule="SameTracker",
        why="TrackingTarget/team-a/mlflow records it in the same tracker, mlflow http://mlflow.mlflow.svc:5000",
    )


def test_a_target_that_leaves_the_run_takes_it_from_nobody():
    near = target(select=api.Select(pipelines=("fraud",)))
    assert isinstance(policy.decide(RUN, cluster_target(), others=(near,)), Taken)


def test_of_two_targets_of_a_kind_at_one_address_the_older_takes_the_run():
    older, newer = target("b", day=1), target("a", day=2)
    assert [rule(d) for _, d in policy.decide_all(RUN, (newer, older))] == ["SameTracker", "Selected"]


def test_another_address_is_another_tracker():
    both = (target(), cluster_target(uri="http://mlflow.other.svc:5000"))
    assert [rule(d) for _, d in policy.decide_all(RUN, both)] == ["Selected", "Selected"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://mlflow:80", "http://mlflow/"), ("https://MLflow.example.com", "HTTPS://mlflow.example.com:443/"),
        ("http://m.a.svc.cluster.local:5000", "http://m.a.svc:5000"), ("http://m.a.svc./x/", "http://m.a.svc//x"),
        ("http://[FD00::1]:5000", "http://[fd00::1]:5000/"),
    ],
)  # fmt: skip
def test_two_spellings_of_an_address_are_one_tracker(one, other):
    assert policy.address(target(uri=one)) == policy.address(target(uri=other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("http://m", "https://m"), ("http://m", "http://m:5000"), ("http://m/a", "http://m/b"), ("http://m", "http://n")],
)
def test_two_addresses_are_two_trackers(one, other):
    assert policy.address(target(uri=one)) != policy.address(target(uri=other))


def test_an_edit_of_what_is_pinned_changes_the_digest_and_no_other_does():
    spec = target().spec
    select = api.Select(pipelines=("a",))
    moved = msgspec.structs.replace(spec, backend=backend("http://other"), suspend=True, select=select)
    named = msgspec.structs.replace(spec, naming=api.Naming(layout="Flat"))
    assert policy.pin(moved).digest == policy.pin(spec).digest
    assert policy.pin(named).digest != policy.pin(spec).digest
