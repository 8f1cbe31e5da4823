from datetime import timedelta

from msgspec.structs import replace
from tests.unit.argo_cases import at, facts, node, only, params, pod, record, result, stamp, workflow

from pipetrail.sources import argo
from pipetrail.sources.argo import pods


def test_only_pods_of_steps_have_facts():
    agent = {"workflows.argoproj.io/component": "agent"}
    assert pod(".a", meta={"labels": agent}) is None
    assert pod(".a", meta={"annotations": {}}) is None
    assert pod(".a", meta={"ownerReferences": [{"kind": "Job", "uid": "u"}]}) is None
    assert argo.pod_facts({"kind": "Pod"}) is None
    assert argo.result_facts({"kind": "WorkflowTaskResult", "metadata": {"name": "x"}}) is None


def test_a_pods_facts_are_its_image_its_containers_and_its_end():
    found = pod(".a", "Failed", code=3, ended=29)
    assert (found.image, found.digest, found.main.exit_code, found.finished) == (
        "img:1", "sha256:" + "a" * 64, 3, at(29)
    )  # fmt: skip


def test_a_pods_deletion_was_asked_for_before_its_grace_period():
    found = pod(".a", "Running", meta={"deletionTimestamp": stamp(60), "deletionGracePeriodSeconds": 30})
    assert found.deletion_asked == at(30)


def test_a_later_event_replaces_an_earlier_one_but_not_what_only_that_knew():
    waits = [{"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}]
    first = pod(".a", "Pending", uid="p", containerStatuses=waits)
    second = pod(".a", "Failed", uid="p", containerStatuses=[])
    (kept,) = facts(first, second).pods.values()
    assert (kept.phase, kept.trouble, kept.trouble_message, len(kept.containers)) == (
        "Failed",
        "ErrImagePull",
        "denied",
        1,
    )


def test_a_stale_list_does_not_undo_a_pods_end():
    (kept,) = facts(pod(".a", uid="p"), pod(".a", "Running", uid="p")).pods.values()
    assert kept.phase == "Succeeded"


def test_a_result_that_comes_back_empty_does_not_undo_the_complete_one():
    (kept,) = facts(result(".a", **params(x="1")), result(".a", complete=False)).results.values()
    assert (kept.complete, len(kept.outputs)) == (True, 1)


def test_facts_are_values():
    before = argo.RunFacts()
    after = before.with_pod(pod(".a")).with_result(result(".a")).gone()
    assert (len(before.pods), len(before.results), before.deleted) == (0, 0, False)
    assert (len(after.pods), len(after.results), after.deleted) == (1, 1, True)


def test_facts_of_one_run_are_bounded_and_what_was_dropped_is_said():
    one = pod(".a")
    many = argo.RunFacts(pods={str(i): replace(one, uid=str(i)) for i in range(pods.MAX_PODS)})
    more = many.with_pod(replace(one, uid="new"))
    assert (len(more.pods), more.forgotten, "0" in more.pods) == (pods.MAX_PODS, 1, False)
    assert [p.reason for p in argo.read(workflow(), more, cluster="x").record.partial] == ["PodsForgotten"]


def test_outputs_of_results_are_bounded():
    big = replace(result(".a"), chars=pods.MAX_RESULT_CHARS)
    kept = argo.RunFacts().with_result(big).with_result(replace(result(".b"), chars=1))
    assert [r.node_id for r in kept.results.values()] == [result(".b").node_id]


def test_pods_of_another_run_of_the_same_name_are_not_this_runs():
    step = only(workflow(node(".a")), pod(".a", owner="another-uid"))
    assert step.digest is None


def test_the_last_pod_made_since_the_node_was_is_the_steps():
    step = only(
        workflow(node(".a", startedAt=stamp(50), finishedAt=stamp(90))), pod(".a", created=2), pod(".a", created=51)
    )
    assert step.attempts[0].pod_uid == "pod-uid.a-51"


def test_a_clock_that_is_a_second_off_does_not_lose_the_pod():
    body = workflow(node(".a", startedAt=(at(3) + timedelta(0)).isoformat()))
    assert only(body, pod(".a", created=2)).attempts[0].pod_uid == "pod-uid.a-2"


def test_offloaded_nodes_are_told_by_their_pods_and_partial():
    status = {"nodes": None, "offloadNodeStatusVersion": "fnv:1"}
    body = workflow(phase="Failed", status=status)
    found = record(
        body, pod(".bad(0)", "Failed", code=9), pod(".bad(1)", "Failed", code=9), pod(".fit(0:a)"),
        result(".fit(0:a)", **params(acc="0.5")),
    )  # fmt: skip
    assert [p.reason for p in found.partial] == ["NodesOffloaded"]
    assert {(s.path, s.outcome.status, len(s.attempts)) for s in found.steps} == {
        ("bad", "failed", 2),
        ("fit", "succeeded", 1),
    }
    assert [p.value for s in found.steps for p in s.points] == [0.5]


def test_a_side_containers_end_does_not_fail_an_offloaded_step_and_a_lost_output_does():
    body = workflow(phase="Succeeded", status={"nodes": None, "offloadNodeStatusVersion": "fnv:1"})
    found = record(body, pod(".side", "Failed", code=0), pod(".lost", "Failed", code=0, wait=64))
    assert {s.path: s.outcome.status for s in found.steps} == {"side": "succeeded", "lost": "error"}
