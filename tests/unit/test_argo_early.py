"""Early delivery (design §5): what a complete result and a succeeded pod say before the node does, and no more."""

import pytest
from tests.unit.argo_cases import at, node, only, params, pod, read, record, result, stamp, workflow

ACC = params(acc="0.5")
OPEN = node(".a", phase="Running")


def points(body, *facts, **more):
    return [(p.key, p.value) for s in record(body, *facts, **more).steps for p in s.points]


def test_a_complete_result_and_a_succeeded_pod_give_values_while_the_step_still_runs():
    step = only(workflow(OPEN), pod(".a"), result(".a", **ACC))
    assert (step.outcome.status, step.outputs.parameters) == ("running", {"acc": "0.5"})
    assert [(p.key, p.value, p.time) for p in step.points] == [("acc", 0.5, at(29))]


def test_the_node_confirms_with_the_same_points():
    facts = (pod(".a", ended=29), result(".a", **ACC))
    early = only(workflow(OPEN), *facts)
    late = only(workflow(node(".a", finishedAt=stamp(29), outputs=ACC)), *facts)
    alone = only(workflow(node(".a", finishedAt=stamp(29), outputs=ACC)))
    assert early.points == late.points == alone.points


@pytest.mark.parametrize(
    "facts",
    [
        (pod(".a"),),
        (result(".a", **ACC),),
        (pod(".a"), result(".a", complete=False, **ACC)),
        (pod(".a"), result(".a", owner="another-run", **ACC)),
        (pod(".a", owner="another-run"), result(".a", **ACC)),
        (pod(".a", "Running"), result(".a", **ACC)),
        (pod(".a", "Failed"), result(".a", **ACC)),
        (pod(".b"), result(".a", **ACC)),
        (pod(".a", created=20), result(".a", created=6, **ACC)),
    ],
    ids=["no result", "no pod", "incomplete", "result of another run", "pod of another run", "pod runs", "pod failed",
         "another node's pod", "result of an earlier pod"],
)  # fmt: skip
def test_nothing_is_early_if_one_of_them_is_missing(facts):
    assert points(workflow(OPEN), *facts) == []


def test_what_an_earlier_generation_left_is_not_early():
    again = workflow(node(".a", phase="Pending", startedAt=stamp(101)), status={"startedAt": stamp(100)})
    old = (pod(".a", created=2), result(".a", created=6, **ACC))
    assert points(again, *old) == []
    new = (pod(".a", created=102, ended=130), result(".a", created=106, **params(acc="0.75")))
    assert points(again, *old, *new) == [("acc", 0.75)]


def test_with_retries_values_are_early_once_an_attempt_has_succeeded():
    body = workflow(
        node(".a", "Retry", "Running"), node(".a(0)", phase="Failed", outputs=params(acc="0.1")),
        node(".a(1)", phase="Running"),
    )  # fmt: skip
    assert points(body) == []
    assert points(body, pod(".a(1)"), result(".a(1)", **ACC)) == [("acc", 0.5)]


def test_a_daemon_is_never_early():
    body = workflow(OPEN, spec={"templates": [{"name": "step", "daemon": True}]})
    assert points(body, pod(".a"), result(".a", **ACC)) == []


def test_files_and_logs_are_early_too_and_have_the_same_time_and_key():
    outputs = {"artifacts": [{"name": "m", "path": "/m.json", "s3": {"key": "r/m.json"}}]}
    facts = (pod(".a", ended=29), result(".a", **outputs))
    early = read(workflow(OPEN), *facts)
    late = read(workflow(node(".a", finishedAt=stamp(29), outputs=outputs)), *facts)
    assert [(f.at, f.key) for f in early.files] == [(at(29), early.files[0].key)]
    assert early.files == late.files
    assert early.logs == late.logs


def test_a_killed_node_gets_from_the_result_what_argo_has_not_written_yet():
    body = workflow(node(".a", phase="Failed", message="workflow shutdown with strategy:  Stop"))
    assert points(body, pod(".a", "Failed"), result(".a", **ACC)) == [("acc", 0.5)]
