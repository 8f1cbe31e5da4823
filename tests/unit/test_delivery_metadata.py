"""How often KFP's metadata store is asked about a run that is followed, by the events of recorded ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipetrail import capture
from pipetrail.delivery.metadata import Said
from pipetrail.recording import RecordedReader
from pipetrail.sources import argo
from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata

KFP = Path(__file__).parents[1] / "data" / "kfp"
AWAY = NoMetadata(reason="MlmdUnreachable", message="away", again=True)


class Asked(RecordedReader):
    """The recording's reader, which counts how often its metadata is asked for, or has none for a while."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.times = 0
        self.away = False

    async def metadata(self, namespace: str, run_id: str) -> Metadata:
        self.times += 1
        return AWAY if self.away else await super().metadata(namespace, run_id)


def bodies(name: str) -> list[Any]:
    """The run's Workflow after each event, pods' and results' events too."""
    found: list[Any] = []
    for line in gzip.decompress((KFP / name / "live.jsonl.gz").read_bytes()).splitlines():
        event = json.loads(line)
        if event["kind"] == "Workflow":
            found.append(event["object"])
        elif found:
            found.append(found[-1])
    return found


async def read(said: Said, reader: Asked, body: Any) -> None:
    await capture.reading(body, argo.RunFacts(), said.at(body, reader), cluster="c")


@pytest.mark.parametrize(("name", "tasks"), [("iris", 3), ("iris-cached", 3), ("loops", 8), ("fails", 4)])
async def test_the_store_is_asked_when_a_run_is_met_when_tasks_end_and_at_its_end(name, tasks):
    said, reader = Said(), Asked(KFP / name)
    events = bodies(name)
    for body in events:
        await read(said, reader, body)
    ended = {
        (key, node["phase"])
        for body in events
        for key, node in body.get("status", {}).get("nodes", {}).items()
        if node["type"] == "Pod" and node["phase"] in ("Succeeded", "Failed", "Error")
        if node["templateName"].endswith("-container-driver" if name == "iris-cached" else ("-impl", "-importer"))
    }
    assert len(ended) == tasks
    assert 3 <= reader.times <= tasks + 3  # the phase of a run is empty, Running, and what it ended with
    assert len(events) > 3 * reader.times


async def test_an_answer_that_says_to_try_again_is_not_kept():
    said, reader = Said(), Asked(KFP / "iris")
    body = bodies("iris")[-1]
    reader.away = True
    for _ in range(2):
        await read(said, reader, body)
    reader.away = False
    for _ in range(3):
        await read(said, reader, body)
    assert reader.times == 3


async def test_an_answer_that_lags_behind_a_task_is_asked_for_again_though_nothing_has_ended_since():
    said, reader = Said(), Asked(KFP / "iris")
    body = bodies("iris")[-1]
    for _ in range(2):
        await read(said, reader, body)
    assert reader.times == 1
    said.forget()
    await read(said, reader, body)
    assert reader.times == 2


@pytest.mark.parametrize(
    "status",
    [None, [], {"nodes": []}, {"nodes": {"a": None, "b": {"type": "Pod", "phase": "Failed", "outputs": [1]}}},
     {"nodes": {"a": {"type": "Pod", "phase": "Failed", "templateName": "x-driver", "outputs": {"parameters": [1]}}}},
     {"compressedNodes": {"no": "text"}, "nodes": {"a": {"type": "Pod", "phase": ["Failed"]}}}],
)  # fmt: skip
async def test_any_body_has_a_moment(status):
    reader = Asked(KFP / "iris")
    for body in (None, {"status": status}, {"metadata": {"labels": {"pipeline/runid": "x"}}, "status": status}):
        said = Said()
        asked = said.at(body, reader)
        assert await asked.metadata("n", "r") == await asked.metadata("n", "r")
