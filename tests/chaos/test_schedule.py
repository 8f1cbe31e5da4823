"""The schedule: a seed alone decides, and everything that is promised to happen is in it."""

import random
from collections import Counter

import pytest
from tests.chaos import generating
from tests.chaos.schedule import DELETED, LONG, RECORDED, WATCHED_ALONE, WITHOUT, Schedule, schedule
from tests.chaos.steps import (
    ApiRestart,
    Away,
    Deletions,
    DiskFull,
    Join,
    Kill,
    NamespaceEnds,
    Odd,
    Rotate,
    Split,
    Submit,
)
from tests.e2e.stage import RECORDINGS
from tests.e2e.trap import CALLS

from pipetrail import api, recording, shape
from pipetrail.recording import Event
from pipetrail.settings import Places
from pipetrail.sources import argo

SEEDS = range(1, 40)


def test_a_seed_makes_the_same_schedule_again_and_another_seed_another() -> None:
    assert schedule(7, runs=100, kills=10) == schedule(7, runs=100, kills=10)
    assert schedule(7, runs=100, kills=10).steps != schedule(8, runs=100, kills=10).steps


@pytest.mark.parametrize(
    ("runs", "kills", "short"), [(500, 50, False), (150, 15, False), (40, 4, False), (20, 4, True)]
)
def test_it_has_as_many_runs_and_kills_as_were_asked_for_each_under_a_name_of_its_own(
    runs: int, kills: int, short: bool
) -> None:
    for seed in SEEDS:
        made = schedule(seed, runs=runs, kills=kills, short=short)
        assert len({run.name for run in made.runs}) == len(made.runs) == runs
        assert made.kills == kills
        times = [step.at_s for step in made.steps]
        assert times == sorted(times)


def test_half_of_the_kills_are_at_a_chosen_call_and_each_call_is_met_before_and_after() -> None:
    kills = [step for step in schedule(3, runs=500, kills=50).steps if isinstance(step, Kill)]
    chosen = [kill for kill in kills if kill.call is not None]
    assert len(chosen) == 25
    assert {(call, when) for call in CALLS for when in ("before", "after")} <= {(k.call, k.when) for k in chosen}
    assert all(kill.bait is not None for kill in chosen)


def test_no_append_to_neptune_takes_effect_late() -> None:
    kills = [s for seed in SEEDS for s in schedule(seed, runs=500, kills=50).steps if isinstance(s, Kill)]
    assert not [kill for kill in kills if (kill.call, kill.when) == ("neptune append", "late")]


def test_every_kind_of_trouble_comes() -> None:
    for seed in SEEDS:
        steps = schedule(seed, runs=150, kills=15).steps
        assert {(s.trackers, s.killed) for s in steps if isinstance(s, Away)} == {
            (("mlflow",), False), (("mlflow",), True), (("neptune",), False), (("mlflow", "neptune"), False),
        }  # fmt: skip
        assert {s.compacted for s in steps if isinstance(s, ApiRestart)} == {False, True}
        for kind in (Rotate, DiskFull, Deletions, NamespaceEnds, Odd):
            assert any(isinstance(s, kind) for s in steps), kind


def test_no_kill_waits_for_a_call_that_the_trouble_at_hand_prevents() -> None:
    for seed in SEEDS:
        made = schedule(seed, runs=500, kills=50)
        for step in made.steps:
            if not isinstance(step, Away) or step.killed:
                continue
            during = [k for k in _kills(made) if step.at_s <= k.at_s < step.at_s + step.for_s]
            chapter = "both away" if len(step.trackers) == 2 else f"{step.trackers[0]} away"
            assert not [k for k in during if k.call in WITHOUT[chapter]]  # type: ignore[index]
    assert set(WITHOUT) <= set(LONG)


def _kills(made: Schedule) -> list[Kill]:
    return [step for step in made.steps if isinstance(step, Kill)]


@pytest.mark.parametrize("shape", generating.SHAPES)
def test_a_made_run_has_the_same_numbers_for_the_same_seed_and_all_of_them_in_its_last_body(shape: str) -> None:
    made = generating.made(shape, random.Random(5))
    assert made == generating.made(shape, random.Random(5))
    nodes = made.events[-1].body["status"]["nodes"].values()
    pods = [node for node in nodes if node["type"] == "Pod"]
    numbers = [float(p["value"]) for node in pods for p in node["outputs"]["parameters"]]
    assert sorted(numbers) == sorted([*made.values, *made.withheld])
    assert bool(made.withheld) == (shape == "made-retried")


@pytest.mark.parametrize("name", [*RECORDED, *WATCHED_ALONE])
def test_what_is_known_of_a_recorded_run_does_not_depend_on_when_an_operator_began_to_watch(name: str) -> None:
    recorded = recording.load(RECORDINGS / name)
    events = [event for event in recorded.events() if not _dropped(event)]
    told: set[str] = set()
    for begins in range(len(events)):
        standing: dict[tuple[str, str], Event] = {}
        for event in events[:begins]:
            what = (event.kind, event.body["metadata"]["name"])
            standing[what] = event
            if event.type == "DELETED":
                del standing[what]
        body, facts = None, argo.RunFacts()
        for event in [*standing.values(), *events[begins:]]:
            body, facts = recorded.after(body, facts, event)
        if body is not None:
            reading = argo.read(body, facts, cluster="c")
            tree = shape.shape(reading.record, api.Policy(), places=Places(), cluster_target=False)
            told.add(repr((tree, reading.files, reading.logs)))
    assert len(told) == (2 if name in WATCHED_ALONE else 1)


def _dropped(event: Event) -> bool:
    """What the operator lets the server drop: pods that have not ended."""
    return event.kind == "Pod" and (event.body.get("status") or {}).get("phase") in ("Pending", "Running")


def test_the_page_says_how_many_shapes_there_are() -> None:
    words = {5: "five", 15: "fifteen"}
    page = (RECORDINGS.parents[2] / "docs" / "chaos.md").read_text()
    assert f"{words[len(RECORDED)]} recorded shapes and {words[len(generating.SHAPES)]} made ones" in page


def test_runs_are_deleted_in_each_chapter_and_in_each_way() -> None:
    for seed in SEEDS:
        made = schedule(seed, runs=500, kills=50)
        shares = [s for s in made.steps if isinstance(s, Deletions)]
        assert len(shares) == len(LONG) - 1  # a namespace ends by itself
        ways = Counter(run.fate for share in shares for run in share.runs)
        assert ways == dict.fromkeys(DELETED, 20)
        away = [s for s in made.steps if isinstance(s, Away)]
        assert all(any(t.at_s <= s.at_s < t.at_s + t.for_s for s in shares) for t in away if not t.killed)
        short = schedule(seed, runs=20, kills=4, short=True)
        assert Counter(run.fate for run in short.runs if run.fate != "stands") == dict.fromkeys(DELETED, 2)


def test_one_operator_becomes_two_shards_of_which_one_is_killed_and_one_again() -> None:
    killed = set()
    for seed in SEEDS:
        steps = schedule(seed, runs=150, kills=15).steps
        (split,), (join,) = ([n for n, s in enumerate(steps) if isinstance(s, kind)] for kind in (Split, Join))
        between = steps[split:join]
        (kill,) = (s for s in between if isinstance(s, Kill))
        killed.add(kill.shard)
        assert kill.call is None
        assert [s for s in steps if isinstance(s, Kill) and s.shard is not None] == [kill]
        assert sum(len(s.runs) for s in between if isinstance(s, Submit)) >= 4
        lasting = [s for s in steps[:split] if isinstance(s, Away | Rotate | DiskFull)]
        assert all(s.at_s + s.for_s <= steps[split].at_s for s in lasting)
    assert killed == {0, 1}


def test_both_namespaces_that_shards_divide_have_runs_and_the_short_form_has_one() -> None:
    for seed in SEEDS:
        homes = Counter(r.home for r in schedule(seed, runs=150, kills=15).runs if r.fate != "ends with its namespace")
        assert min(homes[0], homes[1]) > 30
        assert {r.home for r in schedule(seed, runs=20, kills=4, short=True).runs} == {0}
