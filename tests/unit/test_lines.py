"""Lines out of pieces."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipetrail.controller.lines import Lines

MOST = 8


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line)), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_they_are_cut_and_those_too_long_are_counted(lines, cuts):
    whole = b"".join(line + b"\n" for line in lines)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    cutter = Lines(MOST)
    came = [line for a, b in itertools.pairwise(places) for line in cutter.feed(whole[a:b])]
    assert came == [line for line in lines if 0 < len(line) <= MOST]
    assert cutter.too_long == sum(len(line) > MOST for line in lines)


def test_a_line_without_end_is_not_held():
    cutter = Lines(MOST)
    for _ in range(1000):
        assert list(cutter.feed(b"x" * MOST)) == []
        assert len(cutter._begun) <= MOST
    assert cutter.too_long == 1
    assert list(cutter.feed(b"y\nnext\n")) == [b"next"]
