from tests.unit.shape_cases import curve, in_file, point, printed

from pipetrail.record import FromFile, FromParameter
from pipetrail.shape.changes import Changes
from pipetrail.shape.merging import merge

NAN = float("nan")


def param(name, value):
    return point(name, value, FromParameter(parameter=name))


def merged(*points):
    changes = Changes()
    found = [(key, p.value) for key, p in merge(points, changes, step="s")]
    return found, [(c.key, c.reason) for c in changes.of()]


def test_equal_values_of_two_sources_are_one_point_of_the_file():
    changes = Changes()
    ((key, kept),) = merge([param("acc", 0.5), in_file("acc", 0.5), printed("acc", 0.5)], changes, step="s")
    assert (key, isinstance(kept.source, FromFile)) == ("acc", True)
    assert changes.of() == ()


def test_nan_agrees_with_nan_and_an_integer_with_its_float():
    assert merged(in_file("a", NAN), param("a", NAN), in_file("b", 1), param("b", 1.0))[1] == []


def test_a_single_value_beside_a_series_is_its_final():
    assert merged(in_file("loss", 0.5), *curve("loss", 3.0, 2.0)) == (
        [("loss.final", 0.5), ("loss", 3.0), ("loss", 2.0)],
        [("s: loss", "FinalOfSeries")],
    )


def test_different_single_values_are_told_apart_by_the_lower_source():
    assert merged(in_file("acc", 0.5), param("acc", 0.4)) == (
        [("acc", 0.5), ("acc.acc", 0.4)],
        [("s: acc", "SourcesDiffer")],
    )
    assert merged(in_file("acc", 0.5), printed("acc", 0.4))[0] == [("acc", 0.5), ("stdout.acc", 0.4)]


def test_a_curve_that_differs_goes_aside_as_a_whole():
    files = [in_file("loss", 1.0, step=0), in_file("loss", 0.51, step=1)]
    assert merged(*files, *curve("loss", 1.0, 0.5))[0] == [
        ("loss", 1.0), ("loss", 0.51), ("stdout.loss", 1.0), ("stdout.loss", 0.5),
    ]  # fmt: skip


def test_a_curve_that_agrees_adds_what_it_has_beside():
    assert merged(in_file("loss", 1.0, step=0), *curve("loss", 1.0, 0.5))[0] == [("loss", 1.0), ("loss", 0.5)]


def test_a_curve_that_was_printed_twice_is_kept_twice():
    assert len(merged(*curve("loss", 1.0, 0.5), *curve("loss", 1.0, 0.5))[0]) == 4


def test_two_files_that_differ_are_both_named():
    found, changes = merged(in_file("acc", 0.9, "train_metrics/m.json"), in_file("acc", 0.5, "test_metrics/m.json"))
    assert found == [("train_metrics.acc", 0.9), ("test_metrics.acc", 0.5)]
    assert changes == [("s: acc", "FilesDiffer")]


def test_files_of_one_artifact_are_told_apart_by_their_names():
    found, _ = merged(in_file("acc", 0.9, "out/train/m.json"), in_file("acc", 0.5, "out/test/m.json"))
    assert found == [("train/m.acc", 0.9), ("test/m.acc", 0.5)]


def test_keys_that_two_differing_files_share_are_all_named_and_others_are_not():
    a = [in_file("acc", 0.9, "a/m.json"), in_file("n", 10, "a/m.json"), in_file("only_a", 1, "a/m.json")]
    b = [in_file("acc", 0.5, "b/m.json"), in_file("n", 10, "b/m.json")]
    assert [key for key, _ in merged(*a, *b)[0]] == ["a.acc", "a.n", "only_a", "b.acc", "b.n"]


def test_a_copy_of_a_file_adds_nothing():
    assert merged(in_file("acc", 0.9, "metrics/m.json"), in_file("acc", 0.9, "model/m.json")) == ([("acc", 0.9)], [])


def test_event_files_of_one_folder_are_one_log():
    points = [
        in_file("loss", 1.0, "tb/train/events.1", recognised="tensorboard", step=0),
        in_file("loss", 0.5, "tb/train/events.2", recognised="tensorboard", step=1),
        in_file("loss", 2.0, "tb/val/events.1", recognised="tensorboard", step=0),
    ]
    assert merged(*points)[0] == [("train.loss", 1.0), ("train.loss", 0.5), ("val.loss", 2.0)]


def test_a_file_per_epoch_and_lines_per_batch_are_no_one_curve():
    files = [in_file("loss", 1.0, step=0), in_file("loss", 0.5, step=1)]
    lines = [printed("loss", 1.0, 0), printed("loss", 0.7, 100)]
    assert [key for key, _ in merged(*files, *lines)[0]] == ["loss", "loss", "stdout.loss", "stdout.loss"]
