import re

from tests.unit.shape_cases import at, curve, in_file, items, point, policy, record, step, tree, tried, values

from pipetrail.record import Artifact, FromParameter


def sweep(*depths, **more):
    return [
        step("train", in_file("acc", depth / 10), iteration=items((n, depth)), params={"depth": str(depth)}, **more)
        for n, depth in enumerate(depths)
    ]


def names_of(made):
    return [run.name for run in made.children]


def test_a_step_outside_loops_stands_on_the_parent():
    made = tree(record(step("train", in_file("acc", 0.5))))
    assert (values(made.parent), made.children) == ({"train/acc": 0.5}, ())


def test_a_run_that_is_one_template_has_no_prefix():
    made = tree(record(step("", in_file("acc", 0.5), outputs={"best": "gbm"})))
    assert values(made.parent) == {"acc": 0.5}
    assert made.parent.tags["output.best"] == "gbm"


def test_each_turn_of_a_loop_that_gives_a_point_is_a_child():
    made = tree(record(*sweep(2, 4), step("train", iteration=items((2, 6)), params={"depth": "6"})))
    assert names_of(made) == ["train depth=2", "train depth=4"]
    assert [values(c) for c in made.children] == [{"acc": 0.2}, {"acc": 0.4}]
    assert all(c.nested and c.root == "lab/1234" for c in made.children)


def test_a_child_has_the_runs_params_and_its_own_inputs():
    made = tree(record(*sweep(2), params={"lr": "0.1"}))
    assert made.children[0].params == {"lr": "0.1", "depth": "2"}
    assert made.parent.params == {"lr": "0.1"}


def test_an_input_hides_the_runs_param_of_its_name_which_is_kept_aside():
    made = tree(record(*sweep(2), params={"depth": "9"}))
    assert made.children[0].params == {"depth": "2", "run.depth": "9"}
    assert [(c.key, c.reason) for c in made.children[0].changes] == [("depth", "InputHidesParam")]


def test_the_parent_gets_the_range_over_the_turns_when_the_run_has_ended():
    made = record(*sweep(4, 2, 6), step("train", in_file("acc", float("nan")), iteration=items((3, 8))))
    assert values(tree(made).parent) == {"train/acc.min": 0.2, "train/acc.max": 0.6}
    assert values(tree(record(*sweep(4, 2), status="running")).parent) == {}


def test_the_range_over_curves_is_that_of_their_last_values_at_the_time_of_the_last_end():
    made = tree(
        record(
            step("fit", *curve("loss", 3.0, 1.0), iteration=items((0, "a"))),
            step("fit", *curve("loss", 4.0, 2.0), iteration=items((1, "b")), seconds=90),
        )
    )
    assert values(made.parent) == {"fit/loss.min": 1.0, "fit/loss.max": 2.0}
    assert {m.time_ms for m in made.parent.metrics} == {int(at(90).timestamp() * 1000)}


def test_a_turn_of_a_sub_pipeline_is_one_child_with_all_its_steps():
    turn = items((0, "x"))
    made = tree(
        record(
            step("each", kind="composite", iteration=turn, params={"model": "x"}, seconds=80),
            step("each/train", in_file("loss", 0.5), iteration=turn, params={"model": "x", "rows": "9"}, seconds=60),
            step("each/eval", in_file("auc", 0.9), iteration=turn, params={"loss": "0.5"}, seconds=80),
        )
    )
    (child,) = made.children
    assert child.name == "each model=x"
    assert values(child) == {"train/loss": 0.5, "eval/auc": 0.9}
    assert child.params == {"model": "x", "train.rows": "9", "eval.loss": "0.5"}
    assert (child.started, child.finished) == (at(50), at(80))
    assert values(made.parent)["each/train/loss.min"] == 0.5


def test_loops_in_loops_name_both_items():
    made = tree(
        record(
            step("outer", kind="composite", iteration=items((0, "x")), params={"o": "x"}),
            step("outer/inner", in_file("a", 1), iteration=items((0, "x"), (1, 2)), params={"b": "2"}),
        )
    )
    assert names_of(made) == ["outer/inner o=x b=2"]


def test_turns_with_the_same_item_are_told_apart_by_index_and_the_first_keeps_its_name():
    made = tree(record(*sweep(2, 2, 4)))
    assert names_of(made) == ["train depth=2", "train depth=2 #1", "train depth=4"]
    assert len({c.key for c in made.children}) == 3


def test_a_childs_key_is_its_parents_and_sixteen_digits():
    assert re.fullmatch(r"lab/1234/[0-9a-f]{16}", tree(record(*sweep(2))).children[0].key)


def test_flat_puts_all_on_one_run():
    made = tree(record(*sweep(2, 4), params={"lr": "0.1"}), policy("Flat"))
    assert values(made.parent) == {"train.depth-2/acc": 0.2, "train.depth-4/acc": 0.4}
    assert (made.parent.params, made.children) == ({"lr": "0.1"}, ())


def test_nested_makes_a_child_of_each_step_that_ran():
    steps = [step("prep"), *sweep(2), step("skipped", status="skipped"), step("live", status="running")]
    made = tree(record(*steps, status="running"), policy("Nested"))
    assert names_of(made) == ["prep", "train depth=2"]


def test_siblings_are_tied_by_a_tag_alone():
    (child,) = tree(record(*sweep(2)), policy("Siblings")).children
    assert (child.nested, child.tags["pipetrail.parent"]) == (False, "lab/1234")


def test_a_childs_times_are_those_of_its_last_attempts_main_container():
    attempts = (tried("p0", start=5, end=20), tried("p1", "succeeded", start=30, end=58))
    (child,) = tree(record(*sweep(2, attempts=attempts))).children
    assert (child.started, child.finished, child.status) == (at(30), at(58), "Finished")


def test_outcomes_are_the_trackers():
    told = {
        status: tree(record(status=status)).parent.status
        for status in ("running", "succeeded", "failed", "error", "terminated", "stopped", "deleted", "unknown")
    }
    assert told == {
        "running": "Running", "succeeded": "Finished", "failed": "Failed", "error": "Failed",
        "terminated": "Killed", "stopped": "Killed", "deleted": "Killed", "unknown": "Killed",
    }  # fmt: skip


def test_a_child_whose_turn_never_ended_is_killed_with_its_run():
    turn = items((0, "x"))
    made = record(
        step("each", kind="composite", iteration=turn, status="running"),
        step("each/a", in_file("x", 1), iteration=turn), status="deleted",
    )  # fmt: skip
    (child,) = tree(made).children
    assert (child.status, child.finished) == ("Killed", at(60))


def test_a_run_without_a_start_has_the_time_it_was_made():
    made = tree(record(status="error", started=None, created=at(3), finished=at(4))).parent
    assert (made.started, made.finished) == (at(3), at(4))


def test_a_step_says_only_inputs_that_are_new():
    made = tree(
        record(
            step("prep", outputs={"rows": "1000"}, seconds=20),
            step("train", params={"lr": "0.1", "rows": "1000", "mode": "fast"}, seconds=60),
            step("later", outputs={"x": "fast"}, seconds=99),
            step("skipped", status="skipped", params={"y": "z"}),
            params={"learning-rate": "0.1"},
        )
    )
    assert made.parent.params == {"learning-rate": "0.1", "train.mode": "fast"}


def test_inputs_that_are_handed_down_are_said_once():
    steps = [
        step("a", kind="composite", params={"m": "A"}),
        step("a/train", params={"m": "A", "n": "B"}),
    ]
    assert tree(record(*steps)).parent.params == {"a.m": "A", "a/train.n": "B"}


def test_outputs_of_a_turn_without_points_stand_on_the_parent():
    made = tree(record(step("maps", iteration=items((0, {"m": "rf", "lr": 0.1})), outputs={"o": "rf-0.1"})))
    assert made.parent.tags["output.maps.m-rf.lr-0.1.o"] == "rf-0.1"


def test_models_and_cached_steps_are_tags():
    model = Artifact(name="model", uri="s3://b/m.tgz")
    made = tree(record(step("fit", artifacts=(model,), status="cached", cached_from="churn-abc")))
    assert made.parent.tags["model.fit.model"] == "s3://b/m.tgz"
    assert made.parent.tags["cached.fit"] == "churn-abc"


def test_nobody_can_write_the_tags_that_we_live_by():
    annotations = {"pipetrail.dev/tags": '{"pipetrail.key": "other", "mlflow.parentRunId": "x", "prio": 1, "o": "al"}'}
    made = tree(record(annotations=annotations, tags={"pipetrail.uid": "z", "pipetrail.dev/track": "true"})).parent
    assert {k: v for k, v in made.tags.items() if not k.startswith("pipetrail.")} == {"prio": "1", "o": "al"}
    assert made.tags["pipetrail.uid"] == "1234"
    assert sorted(c.key for c in made.changes) == ["mlflow.parentRunId", "pipetrail.key", "pipetrail.uid"]


def test_tags_that_are_no_json_object_are_said():
    made = tree(record(annotations={"pipetrail.dev/tags": "owner=alice"})).parent
    assert [(c.item, c.reason) for c in made.changes] == [("tag", "NotAJsonObject")]


def test_a_key_of_two_steps_is_told_apart_by_the_step_that_had_it_later():
    made = tree(
        record(step("b", in_file("loss", 2), seconds=90), step("a", in_file("loss", 1), seconds=60)),
        policy(naming={"metric": "{metric}"}),
    )
    assert values(made.parent) == {"loss": 1, "b/loss": 2}
    assert [(c.key, c.reason) for c in made.parent.changes] == [("loss", "KeyTaken")]


def test_slashes_in_keys_do_not_mix_steps():
    made = tree(record(step("a", in_file("b/c", 1), seconds=50), step("a/b", in_file("c", 2))))
    first, second = made.parent.metrics
    assert first.key == "a/b/c"
    assert re.fullmatch(r"a/b/c\.[0-9a-f]{4}", second.key)


def test_a_policy_can_send_no_params_metrics_or_artifacts():
    made = record(
        step("a", in_file("x", 1), outputs={"o": "text", "n": "1.5"}, artifacts=(Artifact(name="f", uri="s3://b/f"),)),
        params={"lr": "1"},
    )
    bare = tree(made, policy(params="None", metrics="None", artifacts="None")).parent
    assert (bare.params, bare.metrics, bare.files) == ({}, (), ())
    assert [k for k in bare.tags if not k.startswith("pipetrail.")] == []


def test_times_keep_their_milliseconds():
    late = point("x", 1, FromParameter(parameter="x"), seconds=0.0015)
    assert tree(record(step("a", late))).parent.metrics[0].time_ms == 1795464000001


def test_children_are_shown_by_step_and_turn_whatever_order_the_record_has():
    first, second, third = sweep(2, 4, 6)
    assert names_of(tree(record(third, first, second))) == ["train depth=2", "train depth=4", "train depth=6"]
