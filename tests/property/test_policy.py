"""Laws of who records a run, whatever the run says and whatever the targets ask for."""

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipetrail import api, policy
from pipetrail.api import LabelSelector, Requirement
from pipetrail.policy import RunFacts, Taken

ASKED = st.sampled_from(["team", "tier", "example.com/stage"])  # no selector looks at what authors say
KEYS = ASKED | st.just(api.TRACK_LABEL)
VALUES = st.sampled_from(["", "a", "b", "false", "true"])
LABELS = st.dictionaries(KEYS, VALUES, max_size=4)
NAMES = st.sampled_from(["mlflow", "archive", "all"])
SAID = st.dictionaries(
    st.just(api.TARGETS_ANNOTATION), st.lists(NAMES, max_size=3).map(",".join) | st.text(max_size=20), max_size=1
)
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        key=ASKED,
        operator=st.sampled_from(["In", "NotIn"]),
        values=st.lists(VALUES, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(Requirement, key=ASKED, operator=st.sampled_from(["Exists", "DoesNotExist"])),
)
SELECTORS = st.builds(
    LabelSelector,
    match_labels=st.dictionaries(ASKED, VALUES, max_size=2),
    match_expressions=st.lists(REQUIREMENTS, max_size=3).map(tuple),
)
NAMESPACES = st.sampled_from(["team-a", "team-b"])
RUNS = st.builds(
    RunFacts,
    source=st.just("argo"),
    namespace=NAMESPACES,
    name=st.just("churn-1"),
    pipeline=st.sampled_from(["churn", "fraud", "churn-weekly"]),
    labels=LABELS,
    annotations=SAID,
    template_labels=LABELS,
    template_annotations=SAID,
    namespace_labels=LABELS,
    namespace_annotations=SAID,
)
SELECTS = st.builds(
    api.Select,
    run_selector=st.just(LabelSelector()) | SELECTORS,
    pipelines=st.sampled_from([(), ("churn*",), ("fraud", "?hurn"), ("[ab]*",)]),
)
BACKENDS = st.sampled_from(["http://one:5000", "http://one:5000/", "http://two"]).map(
    lambda uri: api.Backend(mlflow=api.MlflowBackend(tracking_uri=uri))
)
SPEC = {
    "backend": BACKENDS,
    "select": SELECTS,
    "policy": st.builds(api.RunPolicy, opt_out=st.sampled_from(["Allowed", "Forbidden"])),
    "suspend": st.booleans(),
}
DAYS = st.integers(1, 3).map(lambda day: datetime(2026, 11, day, tzinfo=UTC))
TARGETS = st.one_of(
    st.builds(
        api.FoundTarget,
        ref=st.builds(api.TargetRef, kind=st.just("TrackingTarget"), namespace=NAMESPACES, name=NAMES),
        spec=st.builds(api.TargetSpec, **SPEC),
        created=DAYS,
    ),
    st.builds(
        api.FoundTarget,
        ref=st.builds(api.TargetRef, kind=st.just("ClusterTrackingTarget"), name=NAMES),
        spec=st.builds(api.ClusterTargetSpec, **SPEC, namespace_selector=st.just(msgspec.UNSET) | SELECTORS),
        created=DAYS,
    ),
)
MANY = st.lists(TARGETS, max_size=5, unique_by=lambda target: target.ref)
AUTHORS = (api.TRACK_LABEL, api.TARGETS_ANNOTATION)


def silent(run: RunFacts) -> RunFacts:
    """The same run if no author had said anything."""

    def without(said):
        return {k: v for k, v in said.items() if k not in AUTHORS}

    fields = [f"{where}{what}" for where in ("", "template_", "namespace_") for what in ("labels", "annotations")]
    return msgspec.structs.replace(run, **{name: without(getattr(run, name)) for name in fields})


@given(RUNS, TARGETS)
def test_what_authors_say_narrows_and_never_widens(run, target):
    if isinstance(policy.decide(run, target), Taken):
        assert isinstance(policy.decide(silent(run), target), Taken)


@given(RUNS, TARGETS)
def test_an_admin_who_insists_gets_all_that_the_selection_gives(run, target):
    insists = msgspec.structs.replace(target.spec, policy=api.RunPolicy(opt_out="Forbidden"))
    decision = policy.decide(run, msgspec.structs.replace(target, spec=insists))
    assert decision.rule not in ("OptOut", "NotAmongTargets")


@given(RUNS, TARGETS)
def test_a_namespaced_target_never_gets_a_run_of_another_namespace(run, target):
    if isinstance(policy.decide(run, target), Taken) and target.ref.kind == "TrackingTarget":
        assert target.ref.namespace == run.namespace


@given(RUNS, MANY)
def test_no_tracker_gets_a_run_from_two_targets(run, targets):
    places = [policy.address(t) for t, d in policy.decide_all(run, targets) if isinstance(d, Taken)]
    assert len(places) == len(set(places))


@given(RUNS, MANY)
def test_every_tracker_that_some_target_selects_gets_the_run(run, targets):
    selected = {policy.address(t) for t in targets if isinstance(policy.decide(run, t), Taken)}
    taken = {policy.address(t) for t, d in policy.decide_all(run, targets) if isinstance(d, Taken)}
    assert taken == selected


@given(RUNS, MANY, st.randoms())
def test_the_order_of_the_targets_decides_nothing(run, targets, random):
    shuffled = list(targets)
    random.shuffle(shuffled)
    decisions = {t.ref: d for t, d in policy.decide_all(run, targets)}
    assert {t.ref: d for t, d in policy.decide_all(run, shuffled)} == decisions


@given(RUNS, MANY)
def test_every_decision_has_a_sentence(run, targets):
    assert all(decision.why for _, decision in policy.decide_all(run, targets))


@given(SELECTORS, LABELS)
def test_a_selector_selects_as_the_api_conventions_word_it(selector, labels):
    """https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors, word by word."""
    expected = all(key in labels and labels[key] == value for key, value in selector.match_labels.items())
    for need in selector.match_expressions:
        there = need.key in labels
        within = there and labels[need.key] in need.values
        expected &= {"In": within, "NotIn": not within, "Exists": there, "DoesNotExist": not there}[need.operator]
    assert policy.selects(selector, labels) == expected


@given(LABELS)
def test_the_empty_selector_selects_everything(labels):
    assert policy.selects(LabelSelector(), labels)
