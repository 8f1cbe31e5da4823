"""Every reason that code gives for a target's condition stands in the table that docs/conditions.md is made of."""

import ast
from pathlib import Path

from pipetrail import api
from pipetrail.api import conditions

PRODUCT = Path(__file__).parents[2] / "operator" / "pipetrail"
ABOUT_THE_TARGET = {"Retry", "Unauthorised", "Unusable"}
"""The outcomes of a call that concern the whole target; Refused is about one run and shows on its TrackedRun."""


def given_reasons(names=ABOUT_THE_TARGET):
    """First arguments of these errors, wherever one is made with a plain text."""
    for path in PRODUCT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str() as reason), *_]):
                    if name in names:
                        yield reason
                case _:
                    pass


def test_every_reason_that_a_tracker_gives_is_explained():
    found = set(given_reasons())
    assert found >= {"Unreachable", "NotMlflow", "AuthenticationFailed"}
    assert found - set(api.REASONS) == set()


def test_every_reason_for_which_the_outbox_keeps_nothing_is_explained():
    found = set(given_reasons({"NotKept"}))
    assert found | {"OutboxTorn"} == set(conditions.OUTBOX)
    assert [name for name, reason in conditions.OUTBOX.items() if not (reason.means and reason.next_step)] == []


def test_every_reason_says_what_to_do_next():
    assert [name for name, reason in api.REASONS.items() if not (reason.means and reason.next_step and reason.on)] == []


def test_a_condition_that_holds_gives_its_own_name():
    kinds = ("Accepted", "ResolvedRefs", "Reachable", "Ready")
    assert [api.REASONS[kind].on for kind in kinds] == [(kind,) for kind in kinds]
