"""What is kept of where the watches stand, and what holds it back."""

import asyncio

import pytest

from pipetrail.controller import bookmarks
from pipetrail.controller.bookmarks import ANNOTATION, Bookmarks
from pipetrail.controller.stream import Pulse

RUNS, PODS = "/apis/argoproj.io/v1alpha1/workflows", "/api/v1/pods"


def pulse(version: str, path: str = RUNS, *, listed: bool = True) -> Pulse:
    return Pulse(path=path, version=version, listed=listed, heard_s=0.0, restarts=0, trouble="")


class Watches:
    """Pulses and waiting deletions, to be set by a test; time goes on by a turn of the loop's clock."""

    def __init__(self) -> None:
        self.pulses = [pulse("7")]
        self.waiting: list[float] = []

    def marks(self, saved: dict[str, str] | None = None) -> Bookmarks:
        return Bookmarks(saved or {}, lambda: self.pulses, lambda: self.waiting)


def now() -> float:
    return asyncio.get_running_loop().time()


async def later() -> None:
    """Until the clock has moved."""
    before = now()
    while now() <= before:  # noqa: ASYNC110  a clock tells nobody
        await asyncio.sleep(0.001)


async def test_what_a_watch_has_reached_is_kept_and_read_again() -> None:
    watches = Watches()
    watches.pulses = [pulse("7"), pulse("9", PODS)]
    kept = watches.marks().annotations()
    assert bookmarks.read(kept) == {RUNS: "7", PODS: "9"}


async def test_a_watch_that_has_not_caught_up_keeps_where_it_began() -> None:
    watches = Watches()
    watches.pulses = [pulse("8", listed=False), pulse("", PODS, listed=False)]
    assert watches.marks({RUNS: "5", PODS: "6"}).versions() == {RUNS: "5", PODS: "6"}


async def test_before_there_are_watches_what_was_left_stays() -> None:
    watches = Watches()
    watches.pulses = []
    assert watches.marks({RUNS: "5"}).versions() == {RUNS: "5"}


async def test_no_bookmark_passes_a_deletion_whose_run_still_waits() -> None:
    watches = Watches()
    marks = watches.marks()
    assert marks.versions() == {RUNS: "7"}
    await later()
    watches.waiting = [now()]
    watches.pulses = [pulse("8")]
    await later()
    assert marks.versions() == {RUNS: "7"}
    watches.waiting = []
    assert marks.versions() == {RUNS: "8"}


async def test_what_waits_from_before_the_first_look_holds_what_the_process_before_us_left() -> None:
    watches = Watches()
    marks = watches.marks({RUNS: "5"})
    await later()
    watches.waiting = [now()]
    await later()
    assert marks.versions() == {RUNS: "5"}


async def test_what_has_waited_for_longer_than_the_server_remembers_holds_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bookmarks, "HOLD_S", 0.05)
    watches = Watches()
    marks = watches.marks({RUNS: "5"})
    await later()
    watches.waiting = [now()]
    await asyncio.sleep(0.06)
    marks.versions()
    watches.pulses = [pulse("8")]
    await later()
    assert marks.versions() == {RUNS: "8"}


async def test_who_ends_leaves_what_was_true_before_its_targets_were_let_go() -> None:
    watches = Watches()
    marks = watches.marks({RUNS: "5"})
    await later()
    watches.waiting = [now()]
    await later()
    marks.freeze()
    watches.waiting = []
    watches.pulses = [pulse("8")]
    await later()
    assert bookmarks.read(marks.annotations()) == {RUNS: "5"}


async def test_more_than_an_annotation_holds_is_not_kept() -> None:
    watches = Watches()
    watches.pulses = [pulse("7", f"/apis/argoproj.io/v1alpha1/namespaces/{n:063}/workflows") for n in range(1000)]
    assert watches.marks().annotations() == {ANNOTATION: ""}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 7}', '{"a": ""}', '{"a": "../x"}'])
async def test_what_someone_else_wrote_there_is_no_place_to_begin(text: str) -> None:
    assert bookmarks.read({ANNOTATION: text}) == {}
