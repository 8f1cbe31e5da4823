"""What of the events of recorded runs goes on to the delivery: each change that is read, once."""

from itertools import groupby
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.argo_cases import pod_body

from pipetrail import recording
from pipetrail.controller.news import PodNews, ResultNews, RunNews
from pipetrail.sources import argo

RUNS = Path(__file__).parent.parent / "data" / "argo"
FOLDERS = sorted(p.name for p in RUNS.iterdir() if p.is_dir())


class Told:
    """The delivery's ear: what Dispatch would hear."""

    def __init__(self) -> None:
        self.runs = []
        self.pods = []
        self.results = []

    def saw_run(self, header, body, *, fresh):
        self.runs.append((header, body, fresh))

    def saw_pod(self, facts, *, listed):
        self.pods.append((facts, listed))

    def saw_result(self, facts, *, listed):
        self.results.append((facts, listed))


def play(folder: str, kind: str, news) -> list[recording.Event]:
    """Every event of that kind, twice."""
    events = [event for event in recording.load(RUNS / folder).events() if event.kind == kind]
    for event in events:
        news.saw(event.type, event.body, listed=False)
        if event.type != "DELETED":
            news.saw(event.type, event.body, listed=False)
    return events


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_run_is_told_when_its_mark_changes_and_when_it_is_deleted(folder):
    told = Told()
    events = play(folder, "Workflow", RunNews(told))
    marks = [None if event.type == "DELETED" else argo.mark(event.body) for event in events]
    wanted = [events[next(group)[0]] for _, group in groupby(enumerate(marks), lambda pair: pair[1])]
    assert [header for header, _, _ in told.runs] == [argo.header(event.body) for event in wanted]
    assert [body for _, body, _ in told.runs] == [e.body if e.type == "DELETED" else None for e in wanted]
    assert [fresh for _, _, fresh in told.runs] == [event.type == "ADDED" for event in wanted]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_pod_is_told_when_its_facts_change(folder):
    told = Told()
    events = play(folder, "Pod", PodNews(told))
    wanted = []
    last = {}
    for event in events:
        facts = argo.pod_facts(event.body)
        if facts is not None and last.get(facts.uid) != replace(facts, version=""):
            wanted.append(facts)
        if facts is not None:
            last[facts.uid] = replace(facts, version="")
    assert [facts for facts, _ in told.pods] == wanted
    assert len(wanted) < len(events)


@pytest.mark.parametrize(("listed", "times"), [(True, 2), (False, 1)])
def test_a_pod_that_is_deleted_is_told_again_if_it_was_only_listed(listed, times):
    # Its run may not have been known then: what was listed is dropped, for it could be read again.
    told = Told()
    news = PodNews(told)
    pod = pod_body(".a")
    news.saw("ADDED", pod, listed=listed)
    news.saw("MODIFIED", pod, listed=listed)
    news.saw("DELETED", pod, listed=True)
    assert told.pods == [(argo.pod_facts(pod), listed), (argo.pod_facts(pod), False)][:times]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_complete_result_is_told_when_it_goes_away_too_and_an_empty_one_is_not(folder):
    told = Told()
    events = play(folder, "WorkflowTaskResult", ResultNews(told))
    facts = [(event.type, argo.result_facts(event.body)) for event in events]
    wanted = [f for kind, f in facts for _ in range(1 if kind == "DELETED" else 2) if f.complete or kind != "DELETED"]
    assert [facts for facts, _ in told.results] == wanted


@pytest.mark.parametrize(("kind", "make"), [("Workflow", RunNews), ("Pod", PodNews)])
def test_what_no_list_holds_any_more_is_forgotten(kind, make):
    told = Told()
    news = make(told)
    body = next(event.body for event in recording.load(RUNS / "nested-dags").events() if event.kind == kind)
    for uids in ({body["metadata"]["uid"]}, set()):
        news.saw("ADDED", body, listed=True)
        assert len(told.runs + told.pods) == 1
        news.stand(uids)
    assert news._marks == {}
    news.saw("ADDED", body, listed=True)
    assert len(told.runs + told.pods) == 2
