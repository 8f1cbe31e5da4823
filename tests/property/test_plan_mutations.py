"""The state machine sees a plan that is wrong: each way to break it below is found within the same few examples."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.property.plan_machine import Machine, machine

from pipetrail.delivery import plan as whole

SOURCE = Path(whole.__file__).read_text()
BROKEN = {
    "what the record has twice is sent once": ("            counts[identity] -= 1\n", "            pass\n"),
    "what was sent is forgotten": ("        points[point] = counts\n    finished_ms", "    finished_ms"),
    "what was read back is forgotten": ("    for metric in held.metrics:\n", "    for metric in ():\n"),
    "a corrected value is taken for the first": ('return "nan" if math.isnan(as_float)', 'return "" if as_float'),
    "zero and minus zero are one": ('struct.pack(">d", as_float)', 'struct.pack(">d", as_float + 0.0)'),
    "a run is never closed": ("status=wanted.status if closes else None", "status=None"),
    "an end that moved is not told": (
        "(finished_ms != delivered.finished_ms and finished_ms is not None)", "False",
    ),
    "params are sent again": ("in wanted.params.items() if k not in delivered.params", "in wanted.params.items()"),
    "a tag that changed is not sent": ("if delivered.tags.get(k) != v}", "if k not in delivered.tags}"),
    "a file that changed is not sent": (
        "if delivered.files.get(f.path) != _digest(f)", "if f.path not in delivered.files",
    ),
    "a figure that is there is sent again": ('not in ("", _drawn(p))', "!= _drawn(p)"),
    "a note that changed is not sent": ("note=note if note != delivered.note else None", "note=None"),
    "what may have been replaced is taken as known": (
        "    return replace(\n        delivered,\n", "    return delivered or replace(\n        delivered,\n",
    ),
    "points that were tried go with other times": ("    if not tried:\n", "    if True:\n"),
    "a refused batch is tried for ever": (
        "    del receipt", "    if receipt.changes: return delivered\n    del receipt",
    ),
}  # fmt: skip


def broken(old: str, new: str) -> ModuleType:
    """The plan with one place changed."""
    assert SOURCE.count(old) == 1, f"plan.py has changed: {old!r} is there {SOURCE.count(old)} times"
    made = ModuleType("broken_plan")
    made.__dict__["__name__"] = "broken_plan"
    sys.modules["broken_plan"] = made  # msgspec looks its annotations up there
    exec(compile(SOURCE.replace(old, new), "broken_plan.py", "exec"), made.__dict__)
    return made


def back_to_what_it_was(driven: Machine) -> None:
    """What the machine once found: rare enough that it is always tried."""
    driven.start()
    driven.a_tag_changes("a", "1")
    driven.a_delivery_arrives()
    driven.a_tag_changes("a", "2")
    driven.a_delivery_arrives_and_its_answer_is_lost()
    driven.a_tag_changes("a", "1")
    driven.teardown()


def seen(plans: ModuleType) -> bool:
    """Whether the machine fails for one of the two kinds of tracker."""
    for counts_repeats in (True, False):
        try:
            back_to_what_it_was(machine(plans, counts_repeats=counts_repeats)())
            run_state_machine_as_test(
                machine(plans, counts_repeats=counts_repeats),
                settings=settings(
                    max_examples=400,
                    stateful_step_count=25,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                    report_multiple_bugs=False,
                    print_blob=False,
                ),
            )
        except (AssertionError, KeyError):
            return True
    return False


@pytest.mark.parametrize("how", BROKEN)
def test_a_plan_that_is_broken_is_seen(how: str) -> None:
    assert seen(broken(*BROKEN[how]))


def test_the_plan_as_it_stands_is_not() -> None:
    assert not seen(broken("def _drawn", "def  _drawn"))
