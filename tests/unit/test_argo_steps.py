from datetime import timedelta

from tests.unit.argo_cases import NAME, S3, at, node, only, params, paths, pod, read, record, stamp, workflow

from pipetrail.record import LoopItem, Outcome


def spec(*templates):
    return {"templates": [{"name": "step", "container": {"image": "img"}}, *templates]}


def test_a_retried_step_is_one_step_and_its_values_are_the_last_attempts():
    body = workflow(
        node("", "DAG", "Running", templateName="main"),
        node(".fit", "Retry", "Succeeded", outputs=params(acc="0.9")),
        node(".fit(0)", phase="Failed", outputs=params(acc="0.1"), message="main: Error (exit code 3)"),
        node(".fit(1)", outputs=params(acc="0.9") | {"exitCode": "0"}),
    )
    step = only(body)
    assert (
        step.path, step.outcome.status, [a.outcome.status for a in step.attempts]
    ) == ("fit", "succeeded", ["failed", "succeeded"])  # fmt: skip
    assert [(p.key, p.value) for p in step.points] == [("acc", 0.9)]


def test_a_failed_attempt_gives_no_values_while_another_may_follow():
    nodes = [node(".fit", "Retry", "Running"), node(".fit(0)", phase="Failed", outputs=params(acc="0.1"))]
    running = only(workflow(*nodes))
    assert (running.outcome.status, running.points, running.outputs.parameters) == ("running", (), {})
    nodes[0] = node(".fit", "Retry", "Failed", message="No more retries left")
    spent = only(workflow(*nodes))
    assert (spent.outcome.status, [p.value for p in spent.points]) == ("failed", [0.1])


def test_the_reason_of_spent_retries_is_the_last_attempts():
    nodes = (
        node(".fit", "Retry", "Failed", message="No more retries left"),
        node(".fit(0)", phase="Failed", message="main: OOMKilled (exit code 137)", outputs={"exitCode": "137"}),
    )
    want = Outcome(status="failed", reason="OOMKilled", message="main: OOMKilled (exit code 137)", exit_code=137)
    assert want == only(workflow(*nodes)).outcome


def test_a_retry_around_the_entrypoint_is_structure():
    body = workflow(
        node("", "Retry", "Running"),
        node("(0)", "DAG", "Failed", templateName="main", boundary=None),
        node("(1)", "DAG", "Running", templateName="main", boundary=None),
        node("(0).a", "Retry", "Failed", boundary="(0)"),
        node("(0).a(0)", phase="Failed", boundary="(0)"),
        node("(1).a", "Retry", "Succeeded", boundary="(1)"),
        node("(1).a(0)", outputs=params(acc="1"), boundary="(1)"),
    )
    step = only(body)
    assert (
        step.path, step.outcome.status, len(step.attempts), [p.value for p in step.points]
    ) == ("a", "succeeded", 2, [1])  # fmt: skip


def test_a_retry_around_an_entrypoint_that_is_a_leaf_is_a_step_without_a_path():
    step = only(workflow(node("", "Retry", "Succeeded"), node("(0)", outputs=params(acc="1"), boundary=None)))
    assert (step.path, step.outcome.status, len(step.attempts)) == ("", "succeeded", 1)


def test_a_failed_step_inside_a_template_that_may_be_tried_again_keeps_its_values_back():
    nodes = [
        node(".x", "Retry", "Running"),
        node(".x(0)", "DAG", "Failed"),
        node(".x(0).a", phase="Failed", boundary=".x(0)", outputs=params(acc="0.1")),
        node(".x(0).b", boundary=".x(0)", outputs=params(acc="0.2")),
    ]
    points = {s.path: [p.value for p in s.points] for s in record(workflow(*nodes)).steps}
    assert (points["x/a"], points["x/b"]) == ([], [0.2])


def test_each_turn_of_nested_loops_is_a_step_with_its_items():
    inner = {"name": "outer", "steps": [[{"name": "inner", "template": "step", "withItems": [{"lr": 0.1, "m": "rf"}]}]]}
    main = {"name": "main", "dag": {"tasks": [{"name": "outer", "template": "outer", "withItems": ["x", "y (z)"]}]}}
    body = workflow(
        node("", "DAG", "Running", templateName="main"),
        node(".outer", "TaskGroup", "Running", templateName="outer"),
        node(".outer(1:y z)", "Steps", "Running", templateName="outer"),
        node(".outer(1:y z)[0]", "StepGroup", "Running", boundary=".outer(1:y z)"),
        node(".outer(1:y z)[0].inner(0:lr:0.1,m:rf)", boundary=".outer(1:y z)"),
        spec=spec(inner, main),
    )
    items = {s.path: s.iteration for s in record(body).steps}
    assert {
        "outer": (LoopItem(index=1, item="y (z)"),),
        "outer/inner": (LoopItem(index=1, item="y (z)"), LoopItem(index=0, item={"lr": 0.1, "m": "rf"})),
    } == items


def test_items_of_a_parameter_are_looked_up_and_those_of_a_sequence_are_text():
    tasks = [
        {"name": "gen", "template": "step"},
        {"name": "fan", "template": "step", "withParam": "{{tasks.gen.outputs.result}}"},
        {"name": "par", "template": "step", "withParam": "{{workflow.parameters.sizes}}"},
        {"name": "seq", "template": "step", "withSequence": {"count": "3"}},
        {"name": "lost", "template": "step", "withParam": "{{tasks.nowhere.outputs.result}}"},
    ]
    body = workflow(
        node("", "DAG", "Running", templateName="main"),
        node(".gen", outputs={"result": "[3, 5]"}),
        node(".fan(1:5)"),
        node(".par(0:1.5)"),
        node(".seq(2:2)"),
        node(".lost(0:7)"),
        spec=spec({"name": "main", "dag": {"tasks": tasks}}) | {"arguments": params(sizes="[1.5]")},
    )
    items = {s.path: s.iteration[0].item for s in record(body).steps if s.iteration}
    assert items == {"fan": 5, "par": 1.5, "seq": "2", "lost": "7"}


def test_items_of_every_kind_are_known_again_by_how_argo_prints_them():
    """The right side is what Argo's ``processItem`` puts into a node's name."""
    printed = {
        "[a 1 [x,y]]": ["a", 1, "[x,y]"], 'a:{"b":[1,2]},c:x y': {"c": "x y", "a": {"b": [1, 2]}},
        'say \\"hi\\"\\n<é>': 'say "hi"\n<é>', "true": True, "1.5": 1.5, "": "()", "a b:1,a:2": {"a": 2, "a b": 1},
    }  # fmt: skip
    main = {"name": "main", "dag": {"tasks": [{"name": "fan", "withItems": list(printed.values())}]}}
    turns = [node(f".fan({n}:{name})") for n, name in enumerate(printed)]
    body = workflow(node("", "DAG", "Running", templateName="main"), *turns, spec=spec(main))
    found = {s.iteration[0].index: s.iteration[0].item for s in record(body).steps}
    assert found == dict(enumerate(printed.values()))


def test_an_item_that_does_not_print_as_the_node_is_named_is_not_taken():
    main = {"name": "main", "dag": {"tasks": [{"name": "fan", "withItems": ["{{workflow.parameters.a}}"]}]}}
    body = workflow(node("", "DAG", "Running", templateName="main"), node(".fan(0:rf)"), spec=spec(main))
    assert (LoopItem(index=0, item="rf"),) == only(body).iteration


def test_handlers_and_hooks_have_roles_and_are_not_attempts():
    body = workflow(
        node("", "DAG", "Failed", templateName="main"),
        node(".train", "Retry", "Failed"),
        node(".train(0)", phase="Failed"),
        node(".train.onExit", nodeFlag={"hooked": True}),
        node(".train.hooks.running", nodeFlag={"hooked": True}),
        node(".onExit", "Steps", boundary=None, templateName="bye"),
        node(".onExit[0].mail", boundary=".onExit"),
        phase="Failed",
    )
    roles = {s.path: (s.role, len(s.attempts)) for s in record(body).steps}
    assert roles == {
        "train": ("step", 1),
        "train.onExit": ("exit-handler", 1),
        "train.hooks.running": ("hook", 1),
        "onExit": ("exit-handler", 0),
        "onExit/mail": ("exit-handler", 1),
    }


def test_what_did_not_run_says_why():
    body = workflow(
        node(".a", "Skipped", "Skipped", message="when 'x == y' evaluated false"),
        node(".b", "Skipped", "Omitted", message="omitted: depends condition not met"),
        node(".c", "Skipped", "Skipped", message="Skipped, empty params"),
        node(".d", "Skipped", "Skipped", message="original pod: old-x2-77", outputs=params(acc="0.5")),
        node(".e", memoizationStatus={"hit": True, "key": "k"}, outputs=params(acc="0.25")),
    )
    said = {s.path: (s.outcome.status, s.outcome.reason, len(s.attempts), len(s.points)) for s in record(body).steps}
    assert said == {
        "a": ("skipped", "WhenFalse", 0, 0),
        "b": ("omitted", "Depends", 0, 0),
        "c": ("skipped", "EmptyList", 0, 0),
        "d": ("cached", "Resubmitted", 0, 1),
        "e": ("cached", None, 0, 1),
    }


def test_the_origin_of_cached_values_is_named_where_something_tells():
    log = {"name": "main-logs", "s3": {"key": "first-abc12/first-abc12-feat-9/main.log"}}
    hit = node(".e", memoizationStatus={"hit": True}, outputs={"artifacts": [log]})
    resubmitted = node(".d", "Skipped", "Skipped", message="original pod: old-x2-77")
    assert {s.path: s.cached_from for s in record(workflow(hit, resubmitted)).steps} == {
        "e": "first-abc12",
        "d": "old-x2-77",
    }


def test_kinds_come_from_the_node_and_its_template():
    body = workflow(
        node(".h", "HTTP", templateName="h", outputs={"result": '{"a": 1}'}),
        node(".s", "Suspend", templateName="s"),
        node(".p", "Plugin", templateName="p"),
        node(".r", templateName="r"),
        node(".d", templateName="d"),
        node(".c", templateName="step"),
        spec=spec({"name": "r", "resource": {}}, {"name": "d", "data": {}}),
    )
    kinds = {s.path: s.kind for s in record(body).steps}
    assert kinds == {"h": "http", "s": "suspend", "p": "plugin", "r": "resource", "d": "data", "c": "pod"}


def test_a_template_is_found_by_reference_inline_and_in_the_stored_spec():
    main = {
        "name": "main",
        "steps": [[{"name": "inl", "inline": {"data": {}}}, {"name": "ref", "templateRef": {"name": "t"}}]],
    }
    body = workflow(
        node("", "Steps", "Running", templateName="main"),
        node("[0].inl", templateName=""),
        node("[0].ref", templateName="", templateRef={"name": "t", "template": "x", "clusterScope": True}),
        node("[0].ns", templateName="", templateRef={"name": "t", "template": "y"}),
        node("[0].scoped", templateName="z", templateScope="namespaced/t"),
        node("[0].stored", templateName="kept"),
        spec=spec(main),
        status={
            "storedTemplates": {
                "cluster/t/x": {"resource": {}},
                "namespaced/t/y": {"data": {}},
                "namespaced/t/z": {"resource": {}},
            },
            "storedWorkflowTemplateSpec": {"templates": [{"name": "kept", "data": {}}]},
        },
    )
    found = {s.path: (s.kind, s.template) for s in record(body).steps}
    assert found == {
        "inl": ("data", None), "ref": ("resource", "x"), "ns": ("data", "y"), "scoped": ("resource", "z"),
        "stored": ("data", "kept"),
    }  # fmt: skip


def test_a_templates_own_outputs_are_points_only_if_no_step_inside_has_them():
    body = workflow(
        node(".grp", "Steps", outputs=params(copy="0.5", total="2.5")),
        node(".grp[0].a", boundary=".grp", outputs=params(acc="0.5")),
        node(".other", outputs=params(x="2.5")),
    )
    points = {s.path: [(p.key, p.value) for p in s.points] for s in record(body).steps}
    assert points == {"grp": [("total", 2.5)], "grp/a": [("acc", 0.5)], "other": [("x", 2.5)]}


def test_only_what_is_strictly_a_number_is_a_point_and_all_are_outputs():
    given = {"i": "12345678901234567890", "f": "1e-3", "id": "007", "t": "true", "u": "1_000", "e": "", "n": "NaN"}
    step = only(workflow(node(".a", outputs=params(**given) | {"result": "0.25"})))
    assert given == step.outputs.parameters
    assert sorted(f"{p.key}={p.value}" for p in step.points) == [
        "f=0.001",
        "i=12345678901234567890",
        "n=nan",
        "result=0.25",
    ]


def test_values_count_once_the_node_is_fulfilled_and_not_when_its_phase_says_so():
    pending = node(".a", taskResultSynced=False, outputs=params(acc="1"))
    assert ((s := only(workflow(pending))).outcome.status, s.points) == ("running", ())
    done = pending | {"taskResultSynced": True}
    assert len(only(workflow(done)).points) == 1


def test_before_3_7_1_one_map_says_which_outputs_are_there():
    a = node(".a", outputs=params(acc="1"))
    waits = workflow(a, status={"taskResultsCompletionStatus": {a["id"]: False}})
    there = workflow(a, status={"taskResultsCompletionStatus": {a["id"]: True}})
    assert (len(only(waits).points), len(only(there).points)) == (0, 1)


def test_when_the_run_has_ended_nothing_more_is_waited_for():
    body = workflow(node(".a", taskResultSynced=False, outputs=params(acc="1")), phase="Succeeded")
    assert ((s := only(body)).outcome.status, len(s.points)) == ("succeeded", 1)


def test_a_steps_times_are_its_containers_and_its_points_are_its_nodes_end():
    step = only(workflow(node(".a", outputs=params(acc="1"))), pod(".a", created=4, ended=30))
    assert (at(7), at(29), at(30)) == (step.started, step.finished, step.points[0].time)
    assert timedelta(seconds=6) == timedelta(seconds=step.attempts[0].queue_s)


def test_without_its_pod_a_step_has_its_nodes_times():
    step = only(workflow(node(".a")))
    assert (at(1), at(30), 1) == (step.started, step.finished, len(step.attempts))


def test_a_pod_of_an_earlier_go_is_not_the_nodes():
    again = node(".a", phase="Pending", startedAt=stamp(100))
    old = pod(".a", created=2)
    assert ((s := only(workflow(again), old)).outcome.status, s.attempts) == ("pending", ())


def test_a_daemon_runs_until_its_node_says_otherwise_and_has_no_exit_code():
    daemon = spec({"name": "srv", "daemon": True, "container": {}})
    running = node(".srv", phase="Running", daemoned=True, templateName="srv")
    ended = node(".srv", templateName="srv")
    killed = pod(".srv", "Failed", code=143)
    assert ((o := only(workflow(running, spec=daemon)).outcome).status, o.reason) == ("running", "Daemon")
    assert Outcome(status="succeeded", reason="Daemon") == only(workflow(ended, spec=daemon), killed).outcome


def test_a_container_set_has_a_step_for_each_container():
    body = workflow(
        node(".set", outputs=params(r="1")),
        node(".set.main", "Container", boundary=".set"),
        node(".set.prep", "Container", boundary=".set"),
        spec=spec() | {"templates": [{"name": "step", "containerSet": {"containers": []}}]},
    )
    assert {s.path: s.kind for s in record(body).steps} == {
        "set": "pod",
        "set/main": "container",
        "set/prep": "container",
    }


def test_argos_own_logs_are_no_artifacts_and_what_was_declared_and_is_missing_is_absent():
    log = {"name": "main-logs", "s3": {"key": "r/p/main.log"}}
    mine = {"name": "my-logs", "path": "/out", "s3": {"key": "r/p/my-logs.tgz"}}
    gone = {"name": "gone", "path": "/g", "deleted": True, "s3": {"key": "r/p/g.tgz"}}
    declared = {"outputs": {"artifacts": [{"name": "maybe", "optional": True, "archive": {"none": {}}}]}}
    reading = read(
        workflow(
            node(".a", outputs={"artifacts": [log, mine, gone]}),
            spec={"templates": [{"name": "step", "container": {}} | declared]},
        ),
        pod(".a"),
    )
    artifacts = {a.name: (a.archive, a.present) for a in reading.record.steps[0].artifacts}
    assert artifacts == {"my-logs": ("tar", None), "gone": ("tar", False), "maybe": ("none", False)}
    assert [f.artifact for f in reading.files] == ["my-logs"]
    (log_ref,) = reading.logs
    assert (log_ref.archived.key, log_ref.pod) == ("r/p/main.log", "pod.a")


def test_an_output_that_argo_lost_is_partial():
    template = {
        "name": "step",
        "container": {},
        "outputs": {"parameters": [{"name": "acc", "valueFrom": {"path": "/a"}}]},
    }
    (partial,) = record(workflow(node(".a"), spec={"templates": [template]})).partial
    assert (partial.reason, partial.step) == ("OutputMissing", "a")


def test_the_name_of_a_made_object_is_a_reference_beside_the_artifacts():
    resource = {"manifest": "kind: ConfigMap\nmetadata:\n  generateName: made-\n"}
    outputs = [
        {"name": "cm", "valueFrom": {"jsonPath": "{.metadata.name}"}},
        {"name": "val", "valueFrom": {"jsonPath": "{.data.val}"}},
    ]
    template = {"name": "step", "resource": resource, "outputs": {"parameters": outputs}}
    found = record(workflow(node(".mk", outputs=params(cm="made-x1", val="0.5")), spec={"templates": [template]}))
    assert found.steps[0].outputs.parameters == {"val": "0.5"}
    assert [a.uri for a in found.steps[0].artifacts] == ["kubernetes://team-a/configmap/made-x1"]
    assert [p.reason for p in found.partial] == ["ObjectReference"]


def test_files_are_those_of_the_last_attempt_only():
    def tried(name, phase):
        key = f"{NAME}/{name}/m.json"
        return node(name, phase=phase, outputs={"artifacts": [{"name": "m", "path": "/m.json", "s3": {"key": key}}]})

    body = workflow(node(".a", "Retry", "Failed"), tried(".a(0)", "Failed"), tried(".a(1)", "Failed"), phase="Failed")
    assert [f"{NAME}/.a(1)/m.json"] == [f.location.key for f in read(body).files]
    assert S3["bucket"] == read(body).files[0].location.bucket


def test_steps_come_in_the_order_of_their_start():
    body = workflow(
        node(".b", startedAt=stamp(9)), node(".a", startedAt=stamp(20)), node(".c", startedAt=stamp(3)),
        node(".d", phase="Pending", startedAt=None),
    )  # fmt: skip
    assert list(paths(record(body))) == ["c", "b", "a", "d"]
