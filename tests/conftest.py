"""What all tests share: the tiers, the line about each at the end, and the rules of CI.

In CI nothing is skipped, and a run of all tests must have shown everything that docs/guarantees.md promises.
"""

import asyncio
import logging
import os
from collections import Counter, defaultdict

import pytest
import structlog
from hypothesis import settings
from tests.named import unshown

TIERS = ("unit", "mlflow", "api", "node")
SEES = {
    "unit": "pure code and the command line",
    "mlflow": "a real MLflow server",
    "api": "a real API server and S3 store",
    "node": "real pods and Argo's controller",
}
# pytest-asyncio saves "the current loop" before it sets its own; where there is none Python 3.11 makes one that nobody
# closes, which is a warning and so an error. Having said that there is none, none is made.
asyncio.set_event_loop(None)

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# How long an example takes says how busy the machine is; a test that means a bound names it. In CI the examples are the
# same at each run, so that a red one is about the change; elsewhere new ones are tried each time.
settings.register_profile("any machine", deadline=None, derandomize=IN_CI)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables have the width that they have in a pipe, whatever terminal or make the tests run under."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _logs_as_before():
    """A test that configures logs (the command does) leaves them as it found them, not on a stream that is closed."""
    handlers = logging.root.handlers[:]
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--context", help="kubeconfig context of a cluster to use; nothing is built then")
    parser.addoption("--storms", action="store_true", default=IN_CI, help="the storms as well (in CI they always are)")


def tier_of(keywords) -> str:
    """The most demanding part that a test needs."""
    return next((tier for tier in reversed(TIERS) if tier in keywords), "unit")


LONG_MINUTES = 4


def _leave_out_storms(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what CI alone has the time for, unless its file is named."""
    named = " ".join(config.args)
    storms = {i for i in items if i.get_closest_marker("storm") and i.location[0].rsplit("/", 1)[-1] not in named}
    config.hook.pytest_deselected(items=sorted(storms, key=lambda item: item.nodeid))
    items[:] = [item for item in items if item not in storms]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cheap tests first, so that a slip shows before a cluster is needed.

    Several workers take a file each: of those that need a cluster the longer begin earlier, and the longest before all
    else, for what begins last alone decides when all is over. They mostly wait; the cheap tests fill the gaps.
    """
    if not config.getoption("--storms"):
        _leave_out_storms(config, items)
    several = hasattr(config, "workerinput")
    minutes: dict[str, int] = defaultdict(int)
    for item in items if several else ():
        for mark in item.iter_markers("minutes"):
            minutes[item.location[0]] = max(minutes[item.location[0]], mark.args[0])

    def place(item: pytest.Item) -> tuple[bool, bool, int, int]:
        tier = tier_of(item.keywords)
        takes = minutes[item.location[0]]
        return takes < LONG_MINUTES, tier in ("api", "node"), -takes, TIERS.index(tier)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter, exitstatus, config) -> None:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            tier = tier_of(getattr(report, "keywords", ()))  # a module that can't be imported has none
            outcomes[tier]["failed" if outcome == "error" else outcome] += 1
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "keywords"):
                seconds[tier_of(report.keywords)] += report.duration
    terminalreporter.section("tiers")
    for tier in TIERS:
        n = outcomes[tier]
        terminalreporter.write_line(
            f"{tier:7} {n['passed']:5} passed {n['failed']:4} failed {n['skipped']:4} skipped {seconds[tier]:7.1f} s"
            f"   {SEES[tier]}"
        )
    if not config.getoption("--storms"):
        terminalreporter.write_line(
            "storms  minutes of kills, restarts and outages: not run; CI runs them, and make test STORMS=1"
        )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of xdist sees only its share
        config.pluginmanager.register(Shown(config), "guarantees")


class Shown:
    """Holds a run of all tests against the tests that docs/guarantees.md names."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.outcomes: list[tuple[str, str, str]] = []
        self.missing: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.outcomes.append((report.nodeid, report.when or "", report.outcome))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        option = self.config.option
        narrowed = ("keyword", "markexpr", "collectonly", "file_or_dir", "lf", "deselect")
        part = any(getattr(option, name) for name in narrowed)
        self.missing = {} if part else unshown(self.outcomes)
        if self.missing and IN_CI and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.missing:
            terminalreporter.section("not shown, though docs/guarantees.md names them")
            for name, what in sorted(self.missing.items()):
                terminalreporter.write_line(f"{name}: {what}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item):
    """In CI a skipped test that names a tier is a failure: there the machine has what it needs."""
    report = yield
    if IN_CI and report.skipped and tier_of(item.keywords) != "unit" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
