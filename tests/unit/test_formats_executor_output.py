"""Logs of KFP's executor pods: what its launcher prints, torn, mixed and forged too, and what is the program's."""

import json
import time

import pytest

from pipetrail.formats import executor_output, stdout, tail
from pipetrail.formats.executor_output import OutputArtifact

HEAD = "I1123 20:21:06.346828      15 launcher_v2.go:1230] ExecutorOutput: "
GIVEN = {
    "parameterValues": {"n": 50, "text": 'a "quoted" {\n brace', "list": [1, 2.5, {}, []]},
    "artifacts": {
        "metrics": {"artifacts": [{"name": "metrics", "uri": "s3://b/k", "metadata": {"acc": 0.9533333333333334}}]},
        "data": {"artifacts": []},
    },
}


def block(given=GIVEN) -> str:
    return HEAD + json.dumps(given, indent=2)


def read(*lines: str, stamped: bool = False):
    text = "\n".join(lines)
    if stamped:
        text = "\n".join(f"2026-11-23T20:21:06.355746394Z {line}" for line in text.split("\n"))
    return executor_output.read((text + "\n").encode())


@pytest.mark.parametrize("stamped", [False, True])
def test_an_output_is_read_whole_and_nothing_of_it_is_the_programs(stamped):
    log = read("epoch=1 loss=0.5", block(), "I1123 20:21:06.4 15 launcher_v2.go:206] publish success.", stamped=stamped)
    (output,) = log.outputs
    assert output.parameters == GIVEN["parameterValues"]
    assert output.artifacts == {"metrics": (OutputArtifact(uri="s3://b/k", metadata={"acc": 0.9533333333333334}),)}
    assert tail.read(log.program) == "epoch=1 loss=0.5"
    assert [(p.step, p.value) for p in stdout.read(log.program).points] == [(1, 0.5)]
    assert log.notes == ()


def test_an_output_on_one_line_and_an_empty_one_are_outputs():
    assert [o.parameters for o in read(HEAD + json.dumps(GIVEN)).outputs] == [GIVEN["parameterValues"]]
    assert [o.parameters for o in read(HEAD + "{}").outputs] == [{}]


def test_lines_of_others_between_those_of_a_block_are_the_programs():
    lines = block().split("\n")
    mixed = [lines[0], "epoch=2 loss=0.25", *lines[1:4], "}", '  "at": the wrong depth', "", *lines[4:]]
    log = read(*mixed)
    assert [o.parameters for o in log.outputs] == [GIVEN["parameterValues"]]
    assert log.program == b'epoch=2 loss=0.25\n}\n  "at": the wrong depth\n\n'


def test_a_block_behind_output_without_a_newline_is_found():
    log = read("50 %" + block())
    assert [o.parameters["n"] for o in log.outputs] == [50]
    assert log.program == b"50 %\n"


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_block_that_breaks_off_gives_nothing_and_says_so(cut):
    torn = "\n".join(block().split("\n")[:cut])
    log = read("acc=1", torn)
    assert (log.outputs, [n.reason for n in log.notes]) == ((), ["ExecutorOutputTorn"])
    again = read(torn, block())
    assert [o.parameters["n"] for o in again.outputs] == [50]


def test_a_block_with_lines_missing_gives_nothing_and_says_so():
    lines = block().split("\n")
    log = read(*lines[:3], *lines[6:])
    assert (log.outputs, [n.reason for n in log.notes]) == ((), ["ExecutorOutputTorn"])


def test_what_is_left_of_a_block_without_its_head_shows_no_session():
    rest = ['    "store_session_info": "{\\"Params\\":{\\"secretName\\":\\"s3\\"}}",', "  }", "}", "done"]
    assert b"secretName" not in read(*rest).program


def test_blocks_that_a_program_forged_stand_beside_the_launchers_in_the_order_of_the_log():
    forged = {"parameterValues": {"n": 99}}
    assert [o.parameters["n"] for o in read(block(forged), block(), block(forged)).outputs] == [99, 50, 99]


def test_of_many_blocks_the_last_count():
    log = read(*(block({"parameterValues": {"n": n}}) for n in range(30)))
    assert [o.parameters["n"] for o in log.outputs] == list(range(14, 30))


def test_the_executors_own_input_is_neither_output_nor_the_programs():
    told = json.dumps({"inputs": {"artifacts": {"m": {"metadata": {"store_session_info": "{secretName}"}}}}}, indent=4)
    log = read("[KFP Executor 2026-11-23 20:21:06,323 INFO]: Got executor_input:", told, "hello")
    assert (log.outputs, log.program) == ((), b"hello\n")


def test_an_exit_status_is_the_programs_and_errors_of_the_launcher_itself_stay():
    log = read(
        "about to fail",
        "E1123 20:22:56.406440      15 launcher_v2.go:449] Component failed to execute successfully: exit status 9",
        "F1123 20:22:56.543942      15 main.go:59] failed to execute component: exit status 9",
    )
    assert (log.exit_status, log.program) == (9, b"about to fail\n")
    own = "F1123 20:22:56.543942      15 main.go:59] failed to upload artifact: access denied"
    assert read(own).program.decode().strip() == own
    assert read(own + " of {...}").program == b""


def test_ten_times_as_much_takes_some_ten_times_as_long():
    def printed(megabytes: int) -> bytes:
        size = megabytes << 19
        return block({"parameterValues": {"n": 1, "blob": "x" * size, "list": list(range(size // 17))}})

    def cpu_s(log: bytes) -> float:
        before = time.process_time()
        read(log)
        return time.process_time() - before

    big = printed(10)
    assert cpu_s(big) < 50 * cpu_s(printed(1))  # a hundred times, if it were quadratic
    log = read(big)
    assert [o.parameters for o in log.outputs] == [{"n": 1}]
    assert [n.reason for n in log.notes] == ["ValueTooLong"]


def test_a_block_beyond_the_limit_is_not_read_and_its_lines_are_not_the_programs():
    log = read(block({"parameterValues": {"list": list(range(450_000))}}), "after")
    assert (log.outputs, [n.reason for n in log.notes]) == ((), ["ExecutorOutputTooLong"])
    assert log.program == b"after\n"


def test_what_is_no_json_of_kfp_gives_no_value():
    assert read(HEAD + '{"parameterValues": {"n": NaN}}').outputs == ()
    (odd,) = read(HEAD + '{"parameterValues": [1], "artifacts": {"a": {"artifacts": [3]}}}').outputs
    assert (odd.parameters, odd.artifacts) == ({}, {})
    assert read(HEAD + "{" + "[" * 100_000).outputs == ()


def test_a_long_line_that_never_closes_its_string_is_read_once():
    def cpu_s(quotes: int) -> float:
        line = '  "' + '\\"' * quotes
        before = time.process_time()
        read(HEAD + "{", line)
        return time.process_time() - before

    assert cpu_s(2_000_000) < 50 * cpu_s(200_000)  # a hundred times, if it were quadratic
