import pytest
from tests.unit.shape_cases import curve, in_file, policy, record, step, tree, values

from pipetrail.api import Capture
from pipetrail.record import Artifact
from pipetrail.shape.changes import Changes
from pipetrail.shape.selection import measured, select


def sent(*points, artifacts=(), **capture):
    changes = Changes()
    pinned = policy(**capture).capture
    chosen = select(step("s", *points, artifacts=artifacts), pinned, changes)
    return [p.key for p in chosen.points], [c.reason for c in changes.of()]


@pytest.mark.parametrize(
    "place",
    [
        "metrics/a.json",
        "out/eval.csv",
        "x/training-LOG.tsv",
        "Scores/1.yaml",
        "out/loss.txt",
        "accuracy/x",
        "d/history",
    ],
)
def test_a_file_whose_name_says_metrics_is_sent(place):
    assert sent(in_file("a", 1, place)) == (["a"], [])


@pytest.mark.parametrize(
    "place",
    [
        "config/metrics.json", "out/Training-Params.json", "vocab/v.json", "out/schema.json", "metrics/predictions.csv",
        "samples/x.json", "out/labels.json", "dataset/eval.csv", "out/model-card.json", "out/tokenizer.json",
        "out/package-lock.json",
    ],
)  # fmt: skip
def test_a_config_a_vocabulary_or_a_dataset_is_not(place):
    assert sent(in_file("a", 1, place)) == ([], ["NotAMetricFile"])


def test_what_is_left_out_says_how_to_send_it():
    (change,) = tree(record(step("s", in_file("seed", 42, "config/c.json")))).parent.changes
    assert (change.key, change.detail) == (
        "config/c.json",
        "names like *config* are not taken for metrics; capture.files.include: ['config/c.json'] sends it",
    )


def test_content_that_is_recognised_needs_no_name():
    place = "out/predictions.json"
    assert sent(
        in_file("loss", 1, place, recognised="keras"), in_file("s", 1, place, recognised="keras", setting=True)
    ) == (
        ["loss"],
        ["Settings"],
    )


def test_a_dataset_of_kfp_is_never_taken_for_metrics():
    data = Artifact(name="out", type="system.Dataset")
    assert sent(in_file("a", 1, "out/x.json", recognised="records"), artifacts=(data,)) == ([], ["NotAMetricFile"])


def test_a_table_with_a_step_column_is_sent_by_its_shape():
    assert sent(in_file("a", 1, "out/x.csv", recognised="step-table", step=3)) == (["a"], [])
    assert sent(in_file("a", 1, "out/x.csv", step=3)) == ([], ["NotAMetricFile"])


def test_a_small_json_file_is_sent_by_its_shape_without_its_lists():
    numbers = [in_file("a", 1, "out/x.json"), *(in_file("hidden", n, "out/x.json", step=n) for n in range(3))]
    assert sent(*numbers) == (["a"], ["ListInUnnamedFile"])
    assert sent(*(in_file(f"k{n}", n, "out/x.json") for n in range(51))) == ([], ["NotAMetricFile"])
    big = Artifact(name="out", size=70_000)
    assert sent(in_file("a", 1, "out/x.json"), artifacts=(big,)) == ([], ["NotAMetricFile"])


def test_a_file_with_too_much_is_left_out_as_a_whole():
    assert sent(*(in_file(f"k{n}", n) for n in range(201))) == ([], ["TooManyPoints"])
    assert sent(*(in_file("k", n, step=n) for n in range(10_001))) == ([], ["TooManyPoints"])
    assert len(sent(*(in_file("k", n, step=n) for n in range(10_000)))[0]) == 10_000


def test_a_target_includes_and_excludes_files():
    many = [in_file(f"k{n}", n, "config/all.json") for n in range(300)]
    assert len(sent(*many, files={"include": ["config/*"]})[0]) == 300
    assert sent(in_file("a", 1), files={"exclude": ["metrics/*"], "include": ["*"]}) == ([], ["Excluded"])


def test_printed_points_are_sent_when_asked_for():
    assert sent(*curve("loss", 1.0), stdout="On") == (["loss"], [])
    assert sent(*curve("loss", 1.0), stdout="Off") == ([], [])


@pytest.mark.parametrize(
    "name",
    [
        "run_id",
        "model-id",
        "uuid",
        "seed",
        "random_seed",
        "http-port",
        "timestamp",
        "model_version",
        "date",
        "batch_size",
    ],
)
def test_ids_seeds_ports_and_dates_are_no_metrics(name):
    assert not measured(name, 5)


@pytest.mark.parametrize(
    "name",
    ["accuracy", "conversion_rate", "n_valid", "support", "updates", "candidates", "grid", "report_time", "id_count"],
)
def test_words_of_everyday_metrics_are(name):
    assert measured(name, 5)


def test_big_integers_are_no_metrics_and_big_floats_are():
    assert [measured("n", 10**9), measured("n", -(10**9)), measured("n", 1e12), measured("n", 10**9 - 1)] == [
        False, False, True, True,
    ]  # fmt: skip


def test_outputs_that_are_no_metrics_are_tags():
    made = tree(record(step("pick", outputs={"best": "gbm", "seed": "42", "acc": "0.5"}, result="done"))).parent
    assert values(made) == {"pick/acc": 0.5}
    assert {k: v for k, v in made.tags.items() if k.startswith("output")} == {
        "output.pick.best": "gbm", "output.pick.seed": "42", "output.pick.result": "done",
    }  # fmt: skip


def test_a_result_that_is_a_number_is_a_metric():
    assert values(tree(record(step("evaluate", result="0.8725"))).parent) == {"evaluate/result": 0.8725}


def test_by_default_nothing_printed_is_sent():
    assert Capture().stdout == "Off"
