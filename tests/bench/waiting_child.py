"""A process that takes in so many recorded runs, each with its pods and results, whose target sends nothing. `N`.

What the watches would say of them is read as the watches read it; the API server is nowhere.
"""

import asyncio
import gc
import sys
from pathlib import Path
from typing import Final

import msgspec
from kubernetes.aio import client as k8s
from tests.bench.child import answer

from pipetrail import api, observe, recording
from pipetrail.controller.news import News, PodNews, ResultNews, RunNews
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import Kube
from pipetrail.settings import Settings
from pipetrail.sources.argo import glimpse
from pipetrail.targets.addresses import ANYWHERE

RECORDING: Final = Path(__file__).parents[1] / "data" / "argo" / "churn-sweep"
NOWHERE: Final = "http://127.0.0.1:9"
AT_ONCE: Final = 300
"""Runs that have not been quiet for long enough to rest: at 20 a second those of the last 15 s."""


async def main(n: int) -> None:
    """Take them in, rest as the operator does, and stay."""
    observe.configure(form="json", level="error")
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    taken = 0
    answer(lambda: {"taken": taken})
    recorded = recording.load(RECORDING)
    namespace = str(recorded.fold()[0]["metadata"]["namespace"])
    async with Kube(k8s.Configuration(host=NOWHERE)) as kube:
        dispatch = Dispatch(
            kube, Ledger(kube, "bench"), recorded.reader(), Settings(), "bench", addresses=ANYWHERE
        )  # fmt: skip
        spec = api.TargetSpec(backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=NOWHERE)), suspend=True)
        ref = api.TargetRef(name="dead", namespace=namespace)
        dispatch.saw_target(api.FoundTarget(ref=ref, spec=spec), deleted=False)
        last = _last_of_each(recorded)
        kinds: dict[str, tuple[glimpse.Glimpse, News]] = {
            "Workflow": (glimpse.WORKFLOW, RunNews(dispatch)), "Pod": (glimpse.POD, PodNews(dispatch)),
            "WorkflowTaskResult": (glimpse.RESULT, ResultNews(dispatch)),
        }  # fmt: skip
        for number in range(n):
            for kind, line in last:
                glimpsed, news = kinds[kind]
                event = glimpsed.event(line.replace(recorded.uid, f"{number:08}{recorded.uid[8:]}").encode())
                meta = event.body["metadata"]
                meta["uid"] = meta["uid"] if kind == "Workflow" else f"{number:08}{meta['uid'][8:]}"
                news.saw(event.type, event.body, listed=False)
            if number % AT_ONCE == AT_ONCE - 1:
                _rest(dispatch, but=AT_ONCE)
                await asyncio.sleep(0)
        _rest(dispatch, but=0)
        taken = len(dispatch.runs)
        await asyncio.Event().wait()


def _last_of_each(recorded: recording.Recording) -> list[tuple[str, str]]:
    """The last event of each object, the run's first."""
    found: dict[tuple[str, str], str] = {}
    for event in recorded.events():
        if event.type != "DELETED":
            body = {"type": event.type, "object": dict(event.body)}
            found[event.kind, str(event.body["metadata"]["name"])] = msgspec.json.encode(body).decode()
    lines = [(kind, line) for (kind, _), line in found.items()]
    return sorted(lines, key=lambda pair: pair[0] != "Workflow")


def _rest(dispatch: Dispatch, *, but: int) -> None:
    """All but the newest have been quiet for a while."""
    for state in dispatch.runs.all()[: len(dispatch.runs) - but]:
        if state.awake:
            state.stirred_at = float("-inf")
            dispatch.housekeeping.rest(state)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
