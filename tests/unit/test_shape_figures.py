"""Figures in tracker runs: what they are called, where they stand, and how many are sent."""

import pytest
from tests.unit.shape_cases import START, at, in_file, items, policy, record, step, tree

from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve, Table
from pipetrail.shape import figures
from pipetrail.targets.target import Change

MATRIX = ConfusionMatrix(labels=("a", "b"), rows=((1, 2), (3, 4)), name="cls")
CURVE = RocCurve(fpr=(0, 1), tpr=(0, 1), threshold=(1, 0), name="cls")
NOTE = Markdown(text="# R")


def paths(run):
    return [plot.path for plot in run.figures]


def test_a_figure_is_called_after_its_step_and_itself_and_has_the_time_of_the_steps_end():
    (plot,) = tree(record(step("train", figures=(MATRIX,), seconds=60))).parent.figures
    assert (plot.path, plot.figure) == ("train/cls", MATRIX)
    assert plot.time_ms == round(at(60).timestamp() * 1000)


def test_one_without_a_name_is_called_after_its_kind():
    unnamed = (
        ConfusionMatrix(labels=("a",), rows=((1,),)), RocCurve(fpr=(), tpr=(), threshold=()),
        Table(header=(), rows=()), NOTE, Html(text=""),
    )  # fmt: skip
    made = tree(record(step("eval", figures=unnamed))).parent
    assert paths(made) == ["eval/confusion_matrix", "eval/roc_curve", "eval/table", "eval/markdown", "eval/html"]


def test_a_second_figure_of_a_name_is_told_apart_by_its_kind_then_by_its_number():
    made = tree(record(step("train", figures=(MATRIX, CURVE, CURVE, MATRIX)))).parent
    assert paths(made) == ["train/cls", "train/cls.roc_curve", "train/cls.roc_curve.2", "train/cls.confusion_matrix"]


def test_steps_whose_paths_become_one_are_told_apart_too():
    made = tree(record(step("a?b", figures=(MATRIX,), seconds=1), step("a*b", figures=(MATRIX,), seconds=2))).parent
    assert paths(made) == ["a_b/cls", "a_b/cls.confusion_matrix"]


def test_a_run_that_is_a_single_template_has_figures_without_a_prefix():
    assert paths(tree(record(step("", figures=(MATRIX,)))).parent) == ["cls"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../etc/passwd", "eval/_.._etc_passwd"), ("..", "eval/markdown"), ("a\nb\x00", "eval/a_b_"),
        ("größe 1", "eval/größe 1"), (" .x. ", "eval/x"), ("語" * 100, "eval/" + "語" * 60), ("\ud800", "eval/_"),
    ],
)  # fmt: skip
def test_names_are_one_harmless_part_of_a_path(name, path):
    assert paths(tree(record(step("eval", figures=(Markdown(text="x", name=name),)))).parent) == [path]


def test_a_turn_of_a_loop_keeps_its_own_without_the_steps_name():
    steps = [
        step("train", in_file("acc", 0.5), iteration=items((n, n)), params={"depth": str(n)}, figures=(MATRIX,))
        for n in (2, 4)
    ]
    made = tree(record(*steps))
    assert [(run.name, paths(run)) for run in made.runs] == [
        ("churn-7w6gn", []), ("train depth=2", ["cls"]), ("train depth=4", ["cls"]),
    ]  # fmt: skip


def test_a_turn_that_yields_a_figure_alone_is_a_child_too():
    made = tree(record(step("train", iteration=items((0, 2)), params={"depth": "2"}, figures=(MATRIX,))))
    assert [paths(run) for run in made.children] == [["cls"]]


def test_on_one_flat_run_turns_are_told_apart_by_their_items():
    steps = [step("train", iteration=items((n, n)), params={"depth": str(n)}, figures=(MATRIX,)) for n in (2, 4)]
    assert paths(tree(record(*steps), policy("Flat")).parent) == ["train.depth-2/cls", "train.depth-4/cls"]


def test_a_target_may_take_none():
    made = tree(record(step("train", figures=(MATRIX,))), policy(figures="None"))
    assert [run.figures for run in made.runs] == [()]


def test_figures_of_a_step_that_runs_are_sent_when_it_has_ended():
    running = step("train", status="running", figures=(MATRIX,))
    assert tree(record(running, status="running")).parent.figures == ()


def test_a_step_without_an_end_has_figures_of_the_runs_end():
    lost = step("train", status="unknown", figures=(MATRIX,), finished=None)
    (plot,) = tree(record(lost)).parent.figures
    assert plot.time_ms == round(START.timestamp() * 1000) + 600_000


def test_beyond_their_number_the_first_are_sent_and_it_is_said_once():
    many = tuple(Markdown(text=str(n)) for n in range(figures.FIGURES_MOST + 5))
    made = tree(record(step("eval", figures=many))).parent
    assert [plot.figure for plot in made.figures] == list(many[: figures.FIGURES_MOST])
    assert [(c.item, c.key, c.reason) for c in made.changes] == [("figure", "", "TooManyFigures")]


def test_one_that_is_too_large_is_left_out_and_the_others_are_sent():
    large = Html(text="x" * (figures.FIGURE_BYTES + 1), name="big")
    made = tree(record(step("eval", figures=(large, NOTE)))).parent
    assert paths(made) == ["eval/markdown"]
    detail = f"{figures.FIGURE_BYTES >> 10} KiB; up to {figures.FIGURE_BYTES >> 20} MiB are sent"
    assert made.changes == (Change(item="figure", key="eval/big", reason="FigureTooLarge", detail=detail),)


def test_all_of_a_run_are_bounded_in_bytes_too():
    one = Html(text="x" * (figures.FIGURE_BYTES - 100))
    made = tree(record(step("a", figures=(one,) * 3, seconds=1), step("b", figures=(one, one, NOTE), seconds=2))).parent
    assert paths(made) == ["a/html", "a/html.html", "a/html.html.2", "b/html"]
    assert [c.reason for c in made.changes] == ["TooManyFigures"]


def test_texts_and_numbers_that_no_encoding_holds_do_no_harm():
    odd = ConfusionMatrix(labels=("\ud800",), rows=((10**400,),), name="odd")
    (plot,) = tree(record(step("eval", figures=(odd,)))).parent.figures
    assert plot.figure == odd
