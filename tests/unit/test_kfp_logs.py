"""What a launcher logged, beside what the store has: taken where they agree, refused where they do not."""

import json
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from tests.unit.kfp_cases import AWAY, metadata, read, step

from pipetrail.formats.executor_output import ExecutorOutput, LauncherLog, OutputArtifact
from pipetrail.record import ConfusionMatrix, FromLog, FromMlmd, FromParameter, Html, Outcome, RocCurve
from pipetrail.sources.kfp_v2 import merged
from pipetrail.sources.kfp_v2.figures import figures
from pipetrail.sources.kfp_v2.values import agree, typed, unwrapped

AT = datetime(2026, 11, 23, 20, 21, tzinfo=UTC)
EXACT = 0.9533333333333334
METRICS = {
    "accuracy": EXACT, "loss": 0.12, "epochs_done": 4, "zero": 0.0, "big": 1.5e300, "name with space/slash": 7,
    "converged": True,
}  # fmt: skip
MATRIX = {
    "annotationSpecs": [{"displayName": n} for n in ("setosa", "versicolor", "virginica")],
    "rows": [{"row": [10, 0, 0]}, {"row": [0, 8, 1]}, {"row": [0, 2, 9]}],
}


def train():
    return step(read("iris").record, "train")


def output(metrics=METRICS, value=EXACT, matrix=MATRIX, model=None) -> ExecutorOutput:
    def only(entries):
        return (OutputArtifact(metadata=entries),)

    model = model or {"framework": "none", "version": 3, "score": EXACT}
    artifacts = {"metrics": only(metrics), "cls": only({"confusionMatrix": matrix}), "model": only(model)}
    return ExecutorOutput(parameters={"Output": value}, artifacts=artifacts)


def checked(*outputs, of=None):
    return merged(of or train(), LauncherLog(outputs=outputs), "checked", AT)


def values(found):
    return {p.key: p.value for p in found.points}


def test_digits_that_the_store_has_cut_come_from_the_log():
    found, partial = checked(output())
    assert partial == ()
    assert values(found) == {**METRICS, "converged": 1, "Output": EXACT}
    assert {p.source for p in found.points} == {FromLog(artifact="metrics"), FromParameter(parameter="Output")}
    assert all(p.exact for p in found.points)
    assert next(a for a in found.artifacts if a.name == "model").metadata == {
        "framework": "none", "version": 3, "score": EXACT,
    }  # fmt: skip


@pytest.mark.parametrize("forged", [0.99, 0.953334, 0.9533341, -EXACT, 1e300, 0, "0.953333", None, [EXACT]])
def test_a_forged_value_never_beats_the_store(forged):
    found, partial = checked(output({**METRICS, "accuracy": forged}, value=forged))
    told = next(p for p in found.points if p.key == "accuracy")
    assert (told.value, told.exact, told.source) == (0.953333, False, FromMlmd(artifact="metrics"))
    assert found.outputs.parameters == {"Output": EXACT}
    assert [(p.reason, p.step) for p in partial] == [("LogDiffers", "train")]
    assert values(found)["loss"] == 0.12


def test_a_forged_value_beyond_the_sixth_decimal_can_say_no_more_than_that():
    found, _ = checked(output({**METRICS, "accuracy": 0.95333349}))
    assert abs(values(found)["accuracy"] - 0.953333) < 5.1e-7


@pytest.mark.parametrize("before", [True, False])
def test_of_forged_and_true_outputs_the_one_that_agrees_counts_wherever_it_stands(before):
    forged = output({**METRICS, "accuracy": 0.99, "more": 1.0}, value=0.99)
    found, partial = checked(*((forged, output()) if before else (output(), forged)))
    assert values(found) == {**METRICS, "converged": 1, "Output": EXACT}
    assert [p.reason for p in partial] == ([] if before else ["LogDiffers"])


def test_a_metric_that_only_the_log_names_is_no_point():
    found, partial = checked(output({**METRICS, "invented": 1.0}))
    assert "invented" not in values(found)
    assert "metrics/invented" in partial[0].message


def test_a_matrix_has_the_stores_counts_whatever_is_logged():
    (figure,) = checked(output())[0].figures
    assert isinstance(figure, ConfusionMatrix)
    assert json.dumps(figure.rows) == "[[10, 0, 0], [0, 8, 1], [0, 2, 9]]"
    forged = {**MATRIX, "rows": [{"row": [10, 0, 0]}, {"row": [0, 9, 0]}, {"row": [0, 0, 11]}]}
    (kept,), partial = checked(output(matrix=forged))[0].figures, checked(output(matrix=forged))[1]
    assert (kept, [p.reason for p in partial]) == (figure, ["LogDiffers"])


def test_a_log_without_outputs_leaves_the_stores_values_and_says_why_they_are_cut():
    found, partial = checked()
    assert found == train()
    assert [p.reason for p in partial] == ["NoExecutorOutput"]
    (said,) = merged(step(read("loops").record, "inner-sweep/best"), LauncherLog(), "checked", AT)[1:]
    assert said == ()


def alone(*outputs):
    return merged(step(read("iris", AWAY).record, "train"), LauncherLog(outputs=outputs), "alone", AT)


def test_without_the_store_the_logs_values_count_and_the_record_says_that_they_are_unchecked():
    found, partial = alone(output())
    assert values(found) == {**METRICS, "converged": 1, "Output": EXACT}
    assert {p.time for p in found.points} == {AT}
    assert [type(f) for f in found.figures] == [ConfusionMatrix]
    assert [p.reason for p in partial] == ["Unchecked"]


def test_without_the_store_several_outputs_are_a_doubt():
    found, partial = alone(output(value=0.1), output())
    assert values(found)["Output"] == EXACT
    assert [p.reason for p in partial] == ["Unchecked", "SeveralOutputs"]


def test_without_store_and_output_nothing_is_known_and_the_record_says_so():
    found, partial = alone()
    assert (found.points, [p.reason for p in partial]) == ((), ["OutputsUnknown"])


def test_a_session_in_a_log_goes_nowhere():
    noted = OutputArtifact(metadata={"store_session_info": "secretName", "display_name": "m", "k": 1})
    found, _ = alone(ExecutorOutput(artifacts={"model": (noted,), "executor-logs": (noted,)}))
    assert [a.metadata for a in found.artifacts if a.name == "model"] == [{"k": 1}]
    assert "executor-logs" not in {a.name for a in found.artifacts}


def test_a_failed_step_has_its_programs_exit_code_and_no_outputs_of_its_log():
    failed = replace(train(), outcome=Outcome(status="failed", reason="ExitCode", exit_code=1), points=())
    found, partial = merged(failed, LauncherLog(outputs=(output(),), exit_status=9), "alone", AT)
    assert (found.outcome.exit_code, found.points, partial) == (9, (), ())


def test_numbers_agree_to_half_of_the_sixth_decimal_and_big_ones_whole():
    assert agree(0.953333, EXACT)
    assert agree(0.0, 1e-12)
    assert agree(12345678901.0, 12345678901)
    assert agree(float(2**63), 2**63 + 1)
    assert agree({"a": [1.0, True]}, {"a": [1, 1]})
    for stored, logged in ((0.1, 0.1000006), (1.0, "1"), ([1.0], [1.0, 2.0]), ({"a": 1}, {"b": 1}), ("x", "y")):
        assert not agree(stored, logged)
    assert not agree(0.0, float("nan"))
    assert not agree(1.5, 10**400)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3.0, "NUMBER_INTEGER", "3"), (3, "NUMBER_DOUBLE", "3.0"), (3.0, "NUMBER_DOUBLE", "3.0"), (3.0, "", "3"),
        (3.5, "NUMBER_INTEGER", "3.5"), (True, "BOOLEAN", "true"), ("007", "STRING", '"007"'),
        ([1.0, {"b": 2.0, "a": 0.5}], "LIST", '[1, {"a": 0.5, "b": 2}]'), (2.0**60, "NUMBER_INTEGER", str(2.0**60)),
    ],
)  # fmt: skip
def test_doubles_become_what_the_pipeline_declares(value, kind, expected):
    assert json.dumps(typed(value, kind)) == expected


def test_lists_and_objects_of_the_store_are_unwrapped():
    assert unwrapped({"list": [1.0, "a"]}) == [1.0, "a"]
    assert unwrapped({"struct": {"b": 1.0, "a": 2.0}}) == {"a": 2.0, "b": 1.0}
    assert unwrapped("mlmd-struct::ChEKBGNvZGUSCREAAAAAAAAiQA==") == {"code": 9.0}
    for broken in ("mlmd-struct::!", "mlmd-struct::ChEKBA==", "mlmd-struct::CgQ"):
        assert unwrapped(broken) is None


def test_figures_of_slices_have_the_slices_name_and_rows_that_were_not_logged_are_zeros():
    some = {**MATRIX, "rows": [{"row": [1.0, 0.0, 0.0]}]}
    points = [{"confidenceThreshold": 2.0, "recall": 0.0}, {"falsePositiveRate": 1.0, "recall": 1.0}]
    sliced = {"evaluationSlices": [{"slice": "eu", "sliceClassificationMetrics": {"confidenceMetrics": points}}]}
    assert figures("m", {"confusionMatrix": some, **sliced}, stored=True) == (
        ConfusionMatrix(labels=("setosa", "versicolor", "virginica"), rows=((1, 0, 0), (0, 0, 0), (0, 0, 0)), name="m"),
        RocCurve(fpr=(0.0, 1.0), tpr=(0.0, 1.0), threshold=(2.0, 0.0), name="m eu"),
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"confusionMatrix": {"annotationSpecs": [{"displayName": "a"}], "rows": [{"row": [1, 2]}]}},
        {"confusionMatrix": {"annotationSpecs": [], "rows": []}}, {"confusionMatrix": 3}, {"confidenceMetrics": []},
        {"confidenceMetrics": [{"recall": "x"}]}, {"confidenceMetrics": [{"recall": 10**400}]},
        {"evaluationSlices": [{"slice": "x"}]},
    ],
)  # fmt: skip
def test_a_malformed_figure_is_none(broken):
    assert figures("m", broken, stored=True) == ()


def test_metadata_that_another_reader_left_undecoded_is_read_all_the_same():
    told = metadata("iris")
    raw = "mlmd-struct::ChMKBk91dHB1dBIJEYJOG+i0ge4/"
    changed = tuple(
        replace(e, custom={**e.custom, "outputs": raw}) if e.custom.get("task_name") == "train" else e
        for e in told.executions
    )
    assert step(read("iris", replace(told, executions=changed)).record, "train").outputs.parameters == {"Output": EXACT}
    assert Html not in {type(f) for f in train().figures}
