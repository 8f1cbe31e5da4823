import pytest
from tests.unit.argo_cases import node, only, pod, record, stamp, workflow

from pipetrail.record import Outcome

DEADLINE = "Pod was active on the node longer than the specified deadline"
STOP = "workflow shutdown with strategy:  Stop"


def failed(message, *, phase="Failed", code=None, **more):
    outputs = {} if code is None else {"outputs": {"exitCode": str(code)}}
    return node(".a", phase=phase, message=message, **outputs, **more)


@pytest.mark.parametrize(
    ("body", "pods", "status", "reason", "code"),
    [
        (failed("main: Error (exit code 3)", code=3), [], "failed", "ExitCode", 3),
        (failed("main: OOMKilled (exit code 137)", code=137), [], "failed", "OOMKilled", 137),
        (failed("", code=137), [pod(".a", "Failed", code=137, reason="OOMKilled")], "failed", "OOMKilled", 137),
        (failed(DEADLINE, code=143), [], "failed", "DeadlineExceeded", 143),
        (failed("Step exceeded its deadline"), [pod(".a", code=0)], "failed", "DeadlineExceeded", None),
        (failed("pod deleted", phase="Error"), [], "error", "PodDeleted", None),
        (
            failed("main: Error (exit code 143)", code=143),
            [pod(".a", "Failed", code=143, meta={"deletionTimestamp": stamp(40), "deletionGracePeriodSeconds": 30})],
            "failed", "PodDeleted", 143,
        ),
        (
            failed("main: Error (exit code 143)", code=143),
            [pod(".a", "Failed", code=143, meta={"deletionTimestamp": stamp(80), "deletionGracePeriodSeconds": 30})],
            "failed", "ExitCode", 143,
        ),
        (failed("init: Error (exit code 64): x", phase="Error"), [], "error", "InitContainerFailed", None),
        (
            failed("wait: Error (exit code 64): open /var/run/argo/outputs/parameters/x: no", phase="Error", code=0),
            [], "error", "OutputMissing", 0,
        ),
        (failed("wait: Error (exit code 64): stat /x", phase="Error", code=0), [], "error", "OutputSaveFailed", 0),
        (failed("The node was low on memory", code=137), [], "failed", "ExitCode", 137),
        (failed("ImagePullBackOff: no such image"), [], "failed", "ImagePullBackOff", None),
        (failed("pods is forbidden: exceeded quota", phase="Error"), [], "error", None, None),
    ],
)  # fmt: skip
def test_a_failed_step_says_why(body, pods, status, reason, code):
    outcome = only(workflow(body), *pods).outcome
    assert (outcome.status, outcome.reason, outcome.exit_code) == (status, reason, code)


@pytest.mark.parametrize(("asked", "reason"), [("Stop", "Stopped"), ("Terminate", "Terminated")])
@pytest.mark.parametrize("message", [STOP, "pod deleted", "main: Error (exit code 143)"])
def test_what_a_shutdown_killed_is_stopped_or_terminated(asked, reason, message):
    body = workflow(
        failed(message, phase="Error" if message == "pod deleted" else "Failed", code=143), spec={"shutdown": asked}
    )
    assert (o := only(body).outcome).reason == reason
    assert o.status == "failed"


def test_a_step_that_failed_by_itself_is_not_stopped():
    assert only(workflow(failed("main: Error (exit code 3)", code=3), spec={"shutdown": "Stop"})).outcome.reason == (
        "ExitCode"
    )


def test_a_pod_that_was_left_behind_does_not_tell_how_its_step_ended():
    outcome = only(workflow(failed(STOP), spec={"shutdown": "Stop"}), pod(".a", ended=200)).outcome
    assert outcome == Outcome(status="failed", reason="Stopped", message=STOP)


def test_an_image_that_was_never_there_outlives_the_deadline_that_ended_the_pod():
    waiting = {
        "containerStatuses": [
            {"name": "main", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "no such image"}}}
        ]
    }
    pulled = pod(".a", "Pending", uid="p", **waiting)
    ended = pod(".a", "Failed", uid="p", containerStatuses=[
        {"name": "main", "state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}
    ])  # fmt: skip
    outcome = only(workflow(failed(DEADLINE, code=137)), pulled, ended).outcome
    assert (outcome.reason, outcome.message) == ("ErrImageNeverPull", "ErrImageNeverPull: no such image")


def test_an_oom_kill_is_told_while_argo_still_waits():
    stuck = pod(".a", "Running", containerStatuses=[
        {"name": "main", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
        {"name": "wait", "state": {"running": {"startedAt": stamp(5)}}},
    ])  # fmt: skip
    step = only(workflow(node(".a", phase="Running")), stuck)
    assert (step.outcome.status, step.outcome.reason, step.outcome.exit_code) == ("failed", "OOMKilled", 137)


def test_an_oom_kill_that_will_be_retried_is_still_running():
    stuck = pod(".a(0)", "Running", containerStatuses=[
        {"name": "main", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    ])  # fmt: skip
    body = workflow(node(".a", "Retry", "Running"), node(".a(0)", phase="Running"))
    assert only(body, stuck).outcome.status == "running"


def test_a_waiting_step_says_for_what():
    lock = node(".a", phase="Pending", synchronizationStatus={"waiting": "team-a/Mutex/m"})
    assert (only(workflow(lock)).outcome.status, only(workflow(lock)).outcome.reason) == ("pending", "Lock")
    conditions = [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}]
    unscheduled = pod(".a", "Pending", conditions=conditions, containerStatuses=[])
    outcome = only(workflow(node(".a", phase="Pending")), unscheduled).outcome
    assert outcome == Outcome(status="pending", reason="Unschedulable", message="0/1 nodes")
    assert only(workflow(node(".a", "Suspend", "Running"))).outcome.reason == "Suspended"


@pytest.mark.parametrize(
    ("phase", "spec", "status", "deleted", "want", "reason"),
    [
        ("Succeeded", {}, {}, False, "succeeded", None),
        ("Failed", {}, {"message": "child 'x' failed"}, False, "failed", "StepFailed"),
        ("Error", {}, {}, False, "error", "StepFailed"),
        ("Failed", {"shutdown": "Stop"}, {}, False, "stopped", "Stopped"),
        ("Failed", {"shutdown": "Terminate"}, {}, False, "terminated", "Terminated"),
        ("Failed", {}, {"message": "Stopped with strategy 'Terminate'"}, False, "terminated", "Terminated"),
        ("Succeeded", {"shutdown": "Stop"}, {}, False, "succeeded", None),
        ("Failed", {}, {"message": "invalid spec: no such template"}, False, "failed", "InvalidSpec"),
        ("Failed", {}, {"message": "Max duration limit exceeded"}, False, "failed", "DeadlineExceeded"),
        ("Running", {}, {}, False, "running", None),
        ("Running", {"suspend": True}, {}, False, "running", "Suspended"),
        ("Pending", {}, {}, False, "pending", None),
        ("", {}, {}, False, "pending", None),
        ("Running", {}, {}, True, "deleted", "Deleted"),
        ("Failed", {}, {}, True, "failed", "StepFailed"),
        ("Sideways", {}, {}, False, "unknown", "UnknownPhase"),
    ],
)
def test_a_run_stands_as_its_phase_and_its_spec_say(phase, spec, status, deleted, want, reason):
    body = workflow(failed("main: Error (exit code 3)", code=3), phase=phase, spec=spec, status=status)
    outcome = record(body, deleted=deleted).outcome
    assert (outcome.status, outcome.reason) == (want, reason)


def test_a_run_whose_exit_handler_alone_failed_says_so():
    handler = node(".onExit", phase="Failed", boundary=None, message="main: Error (exit code 7)")
    assert record(workflow(node("", "DAG"), handler, phase="Failed")).outcome.reason == "ExitHandlerFailed"


def test_what_a_deleted_run_left_open_is_unknown_unless_its_pod_tells():
    body = workflow(node(".a", phase="Running"), node(".b", phase="Running"), node(".c", phase="Pending"))
    killed = pod(".b", meta={"deletionTimestamp": stamp(20), "deletionGracePeriodSeconds": 0})
    found = record(body, pod(".a"), killed, deleted=True)
    assert {s.path: (s.outcome.status, s.outcome.reason) for s in found.steps} == {
        "a": ("succeeded", None),
        "b": ("unknown", "WorkflowDeleted"),
        "c": ("unknown", "WorkflowDeleted"),
    }


def test_an_ended_run_leaves_no_step_running():
    assert only(workflow(node(".a", phase="Running"), phase="Failed")).outcome.reason == "Unfinished"


def test_a_run_whose_controller_writes_no_status_is_told_by_its_pods():
    body = workflow(phase="", status={"startedAt": None})
    found = record(body, pod("[1].use"))
    assert (found.outcome.status, found.outcome.reason) == ("unknown", "NoStatus")
    assert [(s.path, s.outcome.status, s.outcome.exit_code) for s in found.steps] == [("use", "unknown", 0)]
    assert [a.outcome.status for a in found.steps[0].attempts] == ["succeeded"]
    assert [p.reason for p in found.partial] == ["NoStatus"]


def test_a_new_run_whose_pod_was_seen_before_its_status_is_pending():
    found = record(workflow(phase=""), pod(".a", "Pending", containerStatuses=[]))
    assert (found.outcome.status, found.steps, found.partial) == ("pending", (), ())
