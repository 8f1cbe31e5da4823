"""The tests that docs/guarantees.md names, and whether a run of all tests has shown what they show."""

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "guarantees.md"


def named() -> frozenset[str]:
    """``tests/path.py::test_name`` of each."""
    return frozenset(re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", PAGE.read_text()))


def unshown(outcomes: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Of the named tests those that did not pass, with what became of them.

    `outcomes` are (node id, when, outcome) of every report; a test passed if its calls did, and nothing of it failed.
    """
    said: dict[str, set[str]] = {}
    for node, when, outcome in outcomes:
        name = node.partition("[")[0]
        if outcome != "passed" or when == "call":
            said.setdefault(name, set()).add(outcome)
    every = {name: said.get(name, {"not run"}) for name in named()}
    return {name: ", ".join(sorted(what)) for name, what in every.items() if what != {"passed"}}
