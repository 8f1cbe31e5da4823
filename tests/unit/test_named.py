"""Whether a run of all tests has shown what docs/guarantees.md names."""

from tests.named import named, unshown


def reports(name, outcome="passed"):
    return [(name, "setup", "passed"), (name, "call", outcome), (name, "teardown", "passed")]


def test_a_run_in_which_every_named_test_passed_leaves_nothing():
    assert unshown(report for name in named() for report in reports(name)) == {}


def test_what_did_not_run_was_skipped_or_failed_is_named():
    first, second, third, *rest = sorted(named())
    told = [*reports(first, "failed"), (second, "setup", "skipped")]
    told += [report for name in rest for report in reports(name)]
    assert unshown(told) == {first: "failed", second: "skipped", third: "not run"}


def test_one_case_that_failed_is_not_hidden_by_those_that_passed():
    first, *rest = sorted(named())
    told = [*reports(f"{first}[a]"), *reports(f"{first}[b]", "failed")]
    told += [report for name in rest for report in reports(name)]
    assert unshown(told) == {first: "failed, passed"}
