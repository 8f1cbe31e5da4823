"""What counts as a number in a file, and under which key and step."""

import json
import math
import tracemalloc
from pathlib import Path

import pytest

from pipetrail.formats import RECOGNISED, Content, RawPoint, metrics
from pipetrail.formats.points import Limits
from pipetrail.record import number

DATA = Path(__file__).parents[1] / "data" / "formats"


def read(name: str, text: str | bytes) -> Content:
    return metrics.read(name, text.encode() if isinstance(text, str) else text)


def values(content: Content) -> list[tuple[str, float, int | None]]:
    return [(p.key, p.value, p.step) for p in content.points]


def reasons(content: Content) -> list[str]:
    return [note.reason for note in content.notes]


def test_a_real_file_of_odd_values_comes_back_exactly():
    points = {p.key: p.value for p in metrics.read("metrics.json", (DATA / "odd-values.json").read_bytes()).points}
    assert math.isnan(points.pop("nan"))
    assert math.copysign(1, points["neg0"]) == -1
    assert points == {
        "inf": math.inf, "ninf": -math.inf, "huge": 2**70, "tiny": 5e-324, "neg0": -0.0, "größe": 1.5, "a/b c": 2,
        "metrics": 3, "x" * 300: 1,
    }  # fmt: skip


def test_nested_keys_are_joined_with_dots_and_lists_of_numbers_are_series():
    content = read(
        "metrics.json", '{"a": {"b": {"c": 1}}, "hidden": [512, 0.5], "rows": [[1, 2]], "t": [true, 1], "e": []}'
    )
    assert values(content) == [("a.b.c", 1, None), ("hidden", 512, 0), ("hidden", 0.5, 1)]


def test_a_null_in_a_series_is_a_gap():
    assert values(read("m.json", '{"loss": [1.5, null, 0.5], "none": [null]}')) == [("loss", 1.5, 0), ("loss", 0.5, 2)]


def test_strings_bools_and_nulls_are_no_numbers():
    assert read("m.json", '{"a": "0.5", "b": true, "c": null, "d": "007", "e": "", "f": "NaN"}') == Content()


def test_an_int_stays_an_int_and_a_float_a_float():
    points = read("m.json", '{"i": 1, "f": 1.0, "e": 1e3, "big": 123456789012345678901234567890}').points
    assert [(type(p.value), p.value) for p in points] == [
        (int, 1), (float, 1.0), (float, 1000.0), (int, 123456789012345678901234567890),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("score.json", "0.5"),
        ("score.v2.json", "0.5"),
        ("score", "0.5\n"),
        ("score.txt", "0.5"),
        ("x/score.yaml", "0.5"),
    ],
)
def test_a_bare_number_is_named_after_its_file(name, text):
    assert values(read(name, text)) == [("score", 0.5, None)]


def test_a_bare_list_is_a_series_named_after_its_file():
    assert values(read("loss.json", "[3, 2, 1]")) == [("loss", 3, 0), ("loss", 2, 1), ("loss", 1, 2)]


def test_of_a_key_that_stands_twice_the_last_counts_and_it_is_noted():
    content = read("m.json", '{"a": 1, "b": 2, "a": 3}')
    assert values(content) == [("a", 3, None), ("b", 2, None)]
    assert reasons(content) == ["DuplicateKey"]


def test_keys_that_meet_when_joined_are_noted_too():
    content = read("m.json", '{"a.b": 1, "a": {"b": 2}}')
    assert values(content) == [("a.b", 2, None)]
    assert reasons(content) == ["DuplicateKey"]


@pytest.mark.parametrize("name", ["m.json", "m.yaml", "m.csv", "m.tsv", "m.jsonl"])
@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_file_is_unreadable(name, data):
    assert (values(read(name, data)), reasons(read(name, data))) == ([], ["Unreadable"])


@pytest.mark.parametrize("name", ["m.json", "m.yaml", "m.csv"])
def test_a_file_that_is_not_utf8_is_noted(name):
    assert reasons(read(name, b'a,b\n{"gr\xf6\xdfe": 1}')) == ["NotUtf8"]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_understood(codec):
    assert values(read("m.json", '{"größe": 1}'.encode(codec))) == [("größe", 1, None)]


@pytest.mark.parametrize("text", ["{", "{'a': 1}", "{} x", "nul"])
def test_broken_json_is_unreadable(text):
    assert (values(read("m.json", text)), reasons(read("m.json", text))) == ([], ["Unreadable"])


@pytest.mark.parametrize("name", ["README.txt", "model.bin", "page.html", "model"])
def test_a_file_that_is_nothing_we_know_gives_nothing_and_no_note(name):
    assert read(name, b"\x80\x04 just text = 1\n" * 10) == Content()


def test_a_number_beyond_float64_is_no_infinity():
    content = read("m.json", '{"a": 1e400, "b": -1e999, "c": 1e308}')
    assert (values(content), reasons(content)) == ([("c", 1e308, None)], ["NumberOutOfRange"])


def test_an_integer_of_too_many_digits_is_left_out():
    content = read("m.json", '{"a": %s, "b": 1}' % ("9" * 5000))
    assert (values(content), reasons(content)) == ([("b", 1, None)], ["NumberTooLong"])


# -- shapes ----------------------------------------------------------------------------------------------------------


def kinds(content: Content) -> set[tuple[str, str | None, bool]]:
    return {(p.key, p.recognised, p.setting) for p in content.points}


def test_a_trainer_state_is_its_history_and_its_other_numbers_are_settings():
    state = {
        "best_metric": 0.9, "global_step": 20, "train_batch_size": 8,
        "log_history": [
            {"epoch": 0.5, "loss": 1.5, "step": 10}, {"epoch": 1.0, "eval_loss": 1.25, "step": 20},
        ],
    }  # fmt: skip
    content = read("trainer_state.json", json.dumps(state))
    assert [(p.key, p.value, p.step) for p in content.points if not p.setting] == [
        ("epoch", 0.5, 10), ("loss", 1.5, 10), ("epoch", 1.0, 20), ("eval_loss", 1.25, 20),
    ]  # fmt: skip
    assert {p.key for p in content.points if p.setting} == {"best_metric", "global_step", "train_batch_size"}
    assert {p.recognised for p in content.points} == {"huggingface"}


def test_a_list_of_objects_with_a_step_key_is_a_series_wherever_it_stands():
    rows = '[{"epoch": 0, "loss": 1, "val": {"acc": 0.5}}, {"epoch": 1, "loss": 0.5, "note": "x"}]'
    assert values(read("history.json", rows)) == [("loss", 1, 0), ("val.acc", 0.5, 0), ("loss", 0.5, 1)]
    nested = read("m.json", f'{{"best": 0.5, "history": {rows}}}')
    assert kinds(nested) == {
        ("best", None, False),
        ("history.loss", "records", False),
        ("history.val.acc", "records", False),
    }


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ('{"step": 1, "global_step": 2, "iteration": 3, "epoch": 4, "x": 0.5}', 1),
        ('{"global_step": 2, "iteration": 3, "epoch": 4, "x": 0.5}', 2),
        ('{"iteration": 3, "epoch": 4, "x": 0.5}', 3),
        ('{"epoch": 4.0, "x": 0.5}', 4),
    ],
)
def test_step_keys_have_an_order(row, key):
    assert ("x", 0.5, key) in values(read("m.jsonl", f"{row}\n{row}\n"))


def test_a_step_is_exact_beyond_float64():
    assert values(read("m.jsonl", '{"step": 9007199254740993, "x": 1}\n')) == [("x", 1, 9007199254740993)]


def test_a_fraction_is_no_step():
    assert values(read("m.json", '[{"epoch": 0.5, "x": 1}, {"epoch": 1.5, "x": 2}]')) == [
        ("epoch", 0.5, 0), ("x", 1, 0), ("epoch", 1.5, 1), ("x", 2, 1),
    ]  # fmt: skip


def test_kfp_metrics_are_read_by_name():
    acc = {"name": "acc", "numberValue": 0.5, "format": "PERCENTAGE"}
    text = json.dumps({"metrics": [acc, {"name": "f1", "number_value": "0.25"}], "n": 3})
    content = read("mlpipeline-metrics", text)
    assert values(content) == [("acc", 0.5, None), ("f1", 0.25, None), ("n", 3, None)]
    assert kinds(content) == {("acc", "kfp", False), ("f1", "kfp", False), ("n", "kfp", True)}


def test_a_kfp_value_that_is_no_number_is_noted():
    content = read("m.json", '{"metrics": [{"name": "acc", "numberValue": "high"}]}')
    assert (values(content), reasons(content)) == ([], ["NotANumber"])


def test_evals_result_and_keras_history_are_known():
    evals = read("evals.json", '{"train": {"rmse": [2, 1]}, "valid_0": {"rmse": [3, 2]}}')
    assert kinds(evals) == {("train.rmse", "evals_result", False), ("valid_0.rmse", "evals_result", False)}
    keras = read("history.json", '{"loss": [2, 1], "val_loss": [3, 2], "accuracy": [0.1, 0.2]}')
    assert {p.recognised for p in keras.points} == {"keras"}


def test_a_config_that_resembles_them_is_not():
    assert {p.recognised for p in read("c.json", '{"model": {"hidden": [512, 256]}, "seed": 42}').points} == {None}


def test_a_classification_report_keeps_support_apart():
    row = {"precision": 0.5, "recall": 0.25, "f1-score": 0.3, "support": 7}
    content = read("report.json", json.dumps({"0": row, "accuracy": 0.5, "macro avg": row}))
    assert {p.key for p in content.points if p.setting} == {"0.support", "macro avg.support"}
    assert {p.recognised for p in content.points} == {"classification_report"}
    assert len(content.points) == 9


def test_every_name_that_is_given_is_on_the_list():
    assert {"huggingface", "records", "kfp", "lightning", "evals_result", "keras", "step-table"} <= set(RECOGNISED)


# -- tables ----------------------------------------------------------------------------------------------------------


def test_a_csv_with_a_step_column_is_a_series():
    content = read("scores.csv", "epoch,loss,note\n0,1.0,ok\n10,0.5,\n")
    assert content.points == (
        RawPoint(key="loss", value=1.0, step=0, recognised="step-table"),
        RawPoint(key="loss", value=0.5, step=10, recognised="step-table"),
    )


def test_lightnings_csv_keeps_epoch_and_leaves_out_empty_cells():
    content = read("metrics.csv", "epoch,step,train_loss,val_loss\n0,49,0.5,\n0,99,,0.25\n")
    assert values(content) == [("epoch", 0, 49), ("train_loss", 0.5, 49), ("epoch", 0, 99), ("val_loss", 0.25, 99)]
    assert {p.recognised for p in content.points} == {"lightning"}


def test_one_row_is_single_values_and_more_are_at_their_index():
    assert values(read("m.csv", "acc,f1\n0.5,0.25\n")) == [("acc", 0.5, None), ("f1", 0.25, None)]
    assert values(read("m.csv", "acc\n0.5\n0.75\n")) == [("acc", 0.5, 0), ("acc", 0.75, 1)]


def test_a_table_of_names_and_values_is_single_values():
    assert values(read("m.csv", "metric,value\nacc,0.5\nname,x\n")) == [("acc", 0.5, None)]


def test_pandas_index_is_the_step():
    assert values(read("m.csv", ",loss\n0,0.5\n5,0.25\n")) == [("loss", 0.5, 0), ("loss", 0.25, 5)]


@pytest.mark.parametrize("cell", ["007", "1_000", "1,000", "0x1f", "true", "+1", ".5", "1.", "", "NA", "½", "１"])
def test_a_cell_that_is_not_strictly_a_number_gives_nothing(cell):
    assert values(read("m.tsv", f"step\tx\n1\t{cell}\n")) == []


def test_cells_may_be_nan_and_infinite():
    assert [str(v) for _, v, _ in values(read("m.csv", "x\nnan\n-inf\nInfinity\n"))] == ["nan", "-inf", "inf"]


def test_tabs_and_semicolons_separate_too():
    assert values(read("m.tsv", "step\tx\n1\t2\n")) == values(read("m.csv", "step;x\n1;2\n")) == [("x", 2, 1)]


def test_rows_without_step_are_counted():
    content = read("m.csv", "step,x\n1,2\n,3\n2.5,4\n")
    assert (values(content), reasons(content)) == ([("x", 2, 1)], ["RowsWithoutStep"])


def test_a_table_without_header_is_noted():
    assert reasons(read("m.csv", "1,2\n3,4\n")) == ["NoHeader"]


# -- JSON lines, YAML, TensorBoard ------------------------------------------------------------------------------------


def test_json_lines_are_read_under_the_name_json_too():
    text = '{"step": 0, "loss": 1.0}\n\n{"step": 100, "loss": NaN}\n'
    for name in ("h.jsonl", "h.ndjson", "h.json"):
        points = read(name, text).points
        assert [(p.key, p.step, p.recognised) for p in points] == [
            ("loss", 0, "step-table"),
            ("loss", 100, "step-table"),
        ]


def test_broken_lines_are_counted_and_the_others_count():
    content = read("h.jsonl", '{"step": 0, "x": 1}\n{"step": 1, "x"\n[[[\n{"step": 2, "x": 3}\n')
    assert (values(content), reasons(content)) == ([("x", 1, 0), ("x", 3, 2)], ["UnreadableLines"])


def test_yaml_scalars_are_numbers_strictly():
    text = "a: 0.5\nb: 1e-3\nc: 007\nd: 1_000\ne: 0x1f\nf: 1:30\ng: '2'\nh: true\ni: .nan\nj: -.inf\nk: {l: [1, 2]}\n"
    assert [(k, str(v), s) for k, v, s in values(read("m.yml", text))] == [
        ("a", "0.5", None), ("b", "0.001", None), ("i", "nan", None), ("j", "-inf", None),
        ("k.l", "1", 0), ("k.l", "2", 1),
    ]  # fmt: skip


def test_yaml_documents_are_rows():
    assert values(read("m.yaml", "step: 1\nx: 0.5\n---\nstep: 2\nx: 0.25\n")) == [("x", 0.5, 1), ("x", 0.25, 2)]


def test_yaml_tags_are_not_honoured_and_aliases_not_followed():
    content = read("m.yaml", "a: !!python/object/apply:os.system ['false']\nb: &x [1]\nc: *x\nd: !!float '5'\n")
    assert (values(content), reasons(content)) == ([("b", 1, 0)], ["AliasIgnored"])


def test_a_yaml_key_that_stands_twice_is_noted():
    assert reasons(read("m.yaml", "a: 1\na: 2\n")) == ["DuplicateKey"]


def test_scalars_of_a_real_event_file_are_read_with_step_and_time():
    name = "events.out.tfevents.1700000000.host.1.0"
    content = metrics.read(f"tb/{name}", (DATA / name).read_bytes())
    assert values(content) == [
        ("train/loss", 0.8999999761581421, 0), ("train/loss", 0.5, 10), ("train/loss", 0.25, 20),
        ("train/loss", 0.125, 30), ("val/acc", 0.5, 0), ("val/acc", 0.75, 10), ("val/acc", 0.875, 20),
        ("val/acc", 0.9375, 30),
    ]  # fmt: skip
    assert content.points[0].time is not None
    assert content.points[0].time.year == 2023


def test_a_torn_event_file_counts_up_to_the_tear_and_a_wrong_checksum_is_seen():
    name = "events.out.tfevents.1700000000.host.1.0"
    data = (DATA / name).read_bytes()
    torn = metrics.read(name, data[:-5])
    assert (len(torn.points), reasons(torn)) == (7, ["TensorBoardDamaged"])
    flipped = metrics.read(name, data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    assert (len(flipped.points), reasons(flipped)) == (7, ["TensorBoardDamaged"])


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.json", b"[" * 10_000 + b"]" * 10_000),
        ("m.json", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        ("m.json", b'{"b": 2, "a":' * 400 + b"1" + b"}" * 400),
        ("m.jsonl", b'{"a":' * 400 + b"1" + b"}" * 400),
        ("m.yaml", b"- " * 300 + b"1"),
    ],
)
def test_what_is_nested_too_deep_is_noted(name, data):
    assert "TooDeep" in reasons(read(name, data))


@pytest.mark.parametrize("name", ["m.json", "m.jsonl", "m.yaml", "m.csv"])
def test_nesting_of_10_000_never_raises(name):
    for data in (b"[" * 10_000, b'{"a":' * 10_000, b"- " * 10_000, b"{a: " * 10_000):
        assert read(name, data).points == ()


def test_points_beyond_the_limit_are_counted():
    limits = Limits(points=3)
    series = metrics.read("m.json", b'{"x": [1, 2, 3, 4, 5]}', limits)
    assert (len(series.points), series.notes[0].message) == (3, "the first 3 points are kept, 2 more are left out")
    lines = metrics.read("m.jsonl", b'{"step": 1, "x": 1}\n' * 10, limits)
    message = "the first 3 points are kept, 0 more and the last 7 lines are left out"
    assert (len(lines.points), lines.notes[0].message) == (3, message)
    table = metrics.read("m.csv", b"step,x\n" + b"1,1\n" * 10, limits)
    assert (len(table.points), table.notes[0].message) == (3, message)


def test_keys_beyond_the_limit_are_counted():
    content = metrics.read("m.json", b'{"a": 1, "b": 2, "c": 3}', Limits(keys=2))
    assert (values(content), reasons(content)) == ([("a", 1, None), ("b", 2, None)], ["TooManyKeys"])


def test_a_document_that_is_too_big_is_not_parsed():
    assert reasons(read("m.json", b'{"a": "%s"}' % (b"x" * (9 << 20)))) == ["TooLarge"]
    assert reasons(read("m.json", b"[%s1]" % (b"1," * 1_000_001))) == ["TooManyValues"]
    assert reasons(read("m.yaml", b"a: 1\n" * 300_000)) == ["TooLarge"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.jsonl", b'{"step": 1, "loss": 0.5}\n' * 1_000_000),
        ("m.json", b'{"step": 1, "loss": 0.5}\n' * 1_000_000),
        ("m.csv", b"step,loss\n" + b"1,0.5\n" * 1_000_000),
        ("m.json", b"[" + b"[]," * 330_000 + b"[]]"),
        ("m.json", b"[" + b"1.5," * 400_000 + b"1.5]"),
    ],
)
def test_a_million_lines_or_values_take_bounded_memory(name, data):
    tracemalloc.start()  # which makes each allocation slow, hence fewer points than by default
    try:
        assert len(metrics.read(name, data, Limits(points=20_000)).points) in (0, 20_000)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0", 0), ("1.0", 1.0), ("1e3", 1000.0), ("1E-3", 0.001), ("inf", math.inf), ("-Infinity", -math.inf)],
)
def test_text_that_is_strictly_a_number(text, value):
    assert (number(text), type(number(text))) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "007",
        "1_000",
        "1,000",
        "+1",
        ".5",
        "1.",
        "0x1f",
        "true",
        "1e400",
        "9" * 4001,
        "nano",
        "٣",
        "1\n",
    ],
)
def test_text_that_is_not(text):
    assert number(text) is None
