import pytest
from tests.unit.shape_cases import at, items, record, tree

from pipetrail.api import Naming
from pipetrail.record import Group
from pipetrail.shape import names


def test_an_experiment_is_the_pipeline():
    assert tree(record()).parent.experiment == "churn"


def test_a_cluster_target_keeps_the_experiments_of_namespaces_apart():
    assert tree(record(), cluster_target=True).parent.experiment == "team-a/churn"


def test_the_target_names_the_experiment():
    assert names.experiment(record(), Naming(experiment="ml {pipeline}"), cluster_target=True) == "ml churn"


def test_the_annotation_names_the_experiment_before_the_target():
    made = record(annotations={"pipetrail.dev/experiment": " Churn Q3 \n"})
    assert names.experiment(made, Naming(experiment="x"), cluster_target=False) == "Churn Q3"


@pytest.mark.parametrize("asked", ["team-b/churn", "team-a/churn", "churn", "../team-b/churn", "team-a"])
def test_of_a_cluster_target_the_annotation_names_an_experiment_of_the_runs_own_namespace(asked):
    made = record(annotations={"pipetrail.dev/experiment": asked})
    named = names.experiment(made, Naming(experiment="{pipeline}"), cluster_target=True)
    assert named == ("team-a/churn" if asked == "team-a/churn" else f"team-a/{asked}")


def test_a_run_has_its_own_name():
    assert tree(record()).parent.name == "churn-7w6gn"


def test_a_title_comes_with_the_suffix_that_tells_runs_apart():
    made = record(annotations={"workflows.argoproj.io/title": "Churn sweep\nmore"})
    assert tree(made).parent.name == "Churn sweep · 7w6gn"


def test_a_run_of_a_cron_is_told_by_its_scheduled_time():
    made = record(name="retrain-1795464000", group=Group(kind="cron", name="retrain"), scheduled=at(0))
    assert tree(made).parent.name == "retrain 2026-11-23 20:00"


def test_the_annotation_names_the_run():
    assert tree(record(annotations={"pipetrail.dev/run-name": "Kinds ☕"})).parent.name == "Kinds ☕"


def test_the_target_names_runs():
    assert names.run(record(), Naming(run="{namespace}: {run} {odd}")) == "team-a: churn-7w6gn {odd}"


def test_a_run_that_was_retried_with_other_values_is_a_tracker_run_of_its_own():
    again = tree(record(), attempt=2, supersedes="abc").parent
    assert (again.name, again.key, again.tags["pipetrail.supersedes"]) == ("churn-7w6gn (retry 2)", "lab/1234#2", "abc")


@pytest.mark.parametrize(
    ("template", "step", "key"),
    [
        ("{step}/{metric}", "train", "train/acc"),
        ("{step}/{metric}", "", "acc"),
        ("{metric}.{step}", "", "acc"),
        ("m/{step} - {metric}", "", "m/acc"),
        ("{metric}", "train", "acc"),
    ],
)
def test_the_separator_goes_with_an_empty_step(template, step, key):
    assert names.metric(template, step, "acc") == key


@pytest.mark.parametrize(
    ("item", "params", "label"),
    [
        (4, {"depth": "4"}, "depth=4"),
        (4, {"other": "5"}, "4"),
        ("a b", {"k": "a b"}, "k=a b"),
        ({"lr": 0.1, "on": True}, {}, "lr=0.1 on=true"),
        ([1, 2], {"xs": "[1,2]"}, "xs=[1,2]"),
        ("x" * 41, {}, "7"),
        ({"deep": {"a": 1}}, {}, '{"deep":{"a":1}}'),
        ("", {}, "7"),
        ("<redacted>", {"token": "<redacted>"}, "7"),
        ("two\nlines", {}, "7"),
    ],
)
def test_a_turn_is_told_by_its_item_or_else_by_its_index(item, params, label):
    (turn,) = items((7, item))
    pairs = names.turn(turn, [params], {})
    assert " ".join(names.joined(name, value, by="=") for name, value in pairs) == label


def test_an_input_that_every_turn_has_from_the_run_does_not_tell_a_turn():
    (turn,) = items((0, 4))
    assert names.turn(turn, [{"workers": "4", "depth": "4"}], {"workers": "4"}) == (("depth", "4"),)
