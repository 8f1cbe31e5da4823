"""Whatever bytes stand in the place of MLMD's answers, they are read, or refused in one of two ways."""

import base64
import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipetrail.formats.protobuf import Budget, Malformed, TooMuch
from pipetrail.readers import mlmd_messages as messages

RECORDED = [
    (line["method"], base64.b64decode(line["answer"]))
    for line in json.loads((Path(__file__).parents[1] / "data" / "kfp" / "mlmd-answers.json").read_text())
]
READS = {
    "GetContextByTypeAndName": messages.context,
    "GetExecutionsByContext": messages.executions,
    "GetEventsByExecutionIDs": partial(messages.events, at_most=1000),
    "GetArtifactsByID": messages.artifacts,
}
VALUES = 20_000


def refused_or_read(method: str, answer: bytes) -> bool:
    """True if it was read; any other exception than the two fails the test."""
    try:
        READS[method](answer, Budget(VALUES))
    except (Malformed, TooMuch):
        return False
    return True


@pytest.mark.parametrize("method", READS)
@given(answer=st.binary(max_size=2000))
def test_random_bytes(method, answer):
    refused_or_read(method, answer)


@given(data=st.data())
def test_recorded_answers_with_bytes_changed_cut_or_repeated(data):
    method, answer = data.draw(st.sampled_from(RECORDED))
    at, size = data.draw(st.integers(0, len(answer))), data.draw(st.integers(0, 20))
    refused_or_read(method, answer[:at] + data.draw(st.binary(max_size=20)) + answer[at + size :])


@pytest.mark.parametrize(("method", "answer"), RECORDED)
def test_the_recorded_answers_themselves_are_read(method, answer):
    assert refused_or_read(method, answer)
