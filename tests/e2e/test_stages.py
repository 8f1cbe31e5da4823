"""What a person sees in an outage: `kubectl get`, `describe`, Events, `pipetrail status` and `/metrics` say the same.

`pytest -s` prints the pages of each stage.
"""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.cluster.fixtures import Kubectl
from tests.e2e.stage import Stage, starts, until
from tests.real.mlflow import free_port
from tests.real.operator import Operator
from tests.real.proxy import Answer, Pass, Proxy, Seen

pytestmark = [pytest.mark.minutes(2), pytest.mark.api, pytest.mark.mlflow, pytest.mark.storm]

QUICK = {"concurrency": 8, "requestsPerSecond": 200}
REFUSED = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "no run of that name, please"}).encode()


class Said(NamedTuple):
    """What one of the pages says of the target `mlflow` and of its runs."""

    ready: bool
    reason: str
    runs: dict[str, int]


class Watch:
    """The five pages."""

    def __init__(self, stage: Stage, kubectl: Kubectl, operator: Operator, port: int) -> None:
        self.stage, self.kubectl, self.operator, self.port = stage, kubectl, operator, port

    async def agrees(self, title: str, ready: bool, reason: str, **runs: int) -> None:
        """Wait until all pages say so, and print them."""
        wanted = Said(ready, reason, runs)
        last: dict[str, Said] = {}

        async def said() -> bool:
            last.clear()
            last.update(await asyncio.to_thread(self._said, reason))
            return set(map(str, last.values())) == {str(wanted)}

        await until(f"all pages say {wanted}", said, within_s=90, every_s=0.5, otherwise=lambda: str(last))
        pages = await asyncio.to_thread(self._pages)
        print(f"\n=== {title}\n{pages}")

    def _said(self, reason: str) -> dict[str, Said]:
        target = json.loads(self.kubectl("get", "tt", "mlflow", "-n", self.stage.namespace, "-o", "json").out)
        found = json.loads(self.kubectl("get", "trun", "-n", self.stage.namespace, "-o", "json").out)["items"]
        condition = next((c for c in target["status"].get("conditions", ()) if c["type"] == "Ready"), None)
        sync = target["status"].get("sync") or {}
        events = self.kubectl("events", "-n", self.stage.namespace, "--for", "TrackingTarget/mlflow", "-o", "json").out
        event = newest(events)
        status = json.loads(self._status("-o", "json"))
        (shown,) = status["targets"]
        metrics = self._metrics()
        phases = Counter((t.get("status") or {}).get("phase", "Pending") for t in found)
        of_metrics = {p: int(metrics[f'pipetrail_runs{{state="{p}"}}']) for p in ("Synced", "Pending", "Failed")}
        assert condition is not None
        return {
            "kubectl get": Said(condition["status"] == "True", condition["reason"], plain(phases)),
            "its counts": Said(
                condition["status"] == "True", condition["reason"],
                plain({phase: sync.get(phase.lower(), 0) for phase in ("Synced", "Pending", "Failed")}),
            ),
            "the newest Event": Said(event["type"] == "Normal", event["reason"], plain(phases)),
            "pipetrail status": Said(
                shown["ready"] == "True", shown["reason"], plain(Counter(run["sync"] for run in status["runs"]))
            ),
            "/metrics": Said(metrics[self._of("pipetrail_target_ready")] == 1.0, reason, plain(of_metrics)),
        }  # fmt: skip

    def said_of(self, run: str) -> dict[str, str]:
        """Why a run waits, in one word, by page."""
        found = json.loads(self.kubectl("get", "trun", "-n", self.stage.namespace, "-o", "json").out)["items"]
        (tracked,) = (t for t in found if t["spec"]["run"]["name"] == run)
        name = tracked["metadata"]["name"]
        events = self.kubectl("events", "-n", self.stage.namespace, "--for", f"TrackedRun/{name}", "-o", "json").out
        status = json.loads(self._status("-o", "json"))
        family = "pipetrail_outbox_refused_total{reason="
        return {
            "kubectl get": tracked["status"]["reason"],
            "its newest Event": newest(events)["reason"],
            "pipetrail status": next(r["reason"] for r in status["runs"] if r["run"].endswith(f"/{run}")),
            "/metrics": next(k.split('"')[1] for k, v in self._metrics().items() if k.startswith(family) and v),
        }

    def _of(self, family: str) -> str:
        return f'{family}{{target="mlflow",target_namespace="{self.stage.namespace}"}}'

    def _metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def _status(self, *flags: str) -> str:
        command = [sys.executable, "-m", "pipetrail.cli", "status", "-n", self.stage.namespace, *flags]
        environment = {"KUBECONFIG": self.stage.cluster.kubeconfig or "", "COLUMNS": "120", "PATH": ""}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout

    def _pages(self) -> str:
        namespace = self.stage.namespace
        described = self.kubectl("describe", "tt", "mlflow", "-n", namespace).out
        shown = (
            "pipetrail_target_ready", "pipetrail_breaker", "pipetrail_runs{", "pipetrail_queue_", "pipetrail_dead_",
            "pipetrail_retries_t", "pipetrail_outbox_refused_t", "pipetrail_tracker_requests_t",
        )  # fmt: skip
        metrics = [f"{k} {v:g}" for k, v in self._metrics().items() if k.startswith(shown) and v]
        return "\n".join([
            "$ kubectl get tt,trun", self.kubectl("get", "tt,trun", "-n", namespace).out,
            "$ kubectl describe tt mlflow   (its status)", described[described.index("Status:"):],
            "$ pipetrail status", self._status(), "$ curl …/metrics | grep …", *metrics,
        ])  # fmt: skip


def newest(events: str) -> Any:
    """The last of `kubectl events -o json`."""
    return max(json.loads(events)["items"], key=lambda e: e["lastTimestamp"] or e["eventTime"] or "")


def plain(counts: dict[str, int]) -> dict[str, int]:
    """Without zeros, the names in lower case, in order."""
    return {name.lower(): counts[name] for name in ("Synced", "Pending", "Failed") if counts.get(name)}


@pytest_asyncio.fixture
async def watch(stage: Stage, own_kubectl: Kubectl, tmp_path: Path) -> AsyncIterator[Watch]:
    if not stage.cluster.kubeconfig:
        pytest.skip("needs a kubeconfig of its own")
    port = free_port()
    flags = ("--watch-namespace", stage.namespace, "--namespace", stage.namespace, "--listen", f"127.0.0.1:{port}")
    operator = Operator(Path(stage.cluster.kubeconfig), tmp_path / "operator.log", *flags, "--outbox-max", "100")
    await starts(operator)
    yield Watch(stage, own_kubectl, operator, port)
    operator.kill()


async def test_at_each_stage_of_an_outage_all_pages_say_the_same(
    watch: Watch, stage: Stage, before_mlflow: Proxy
) -> None:
    def answers(status: int, body: bytes = b"") -> None:
        before_mlflow.decide = lambda _seen: Answer(status, body)

    async def play(run: str) -> None:
        await stage.play("nested-dags", run=run, speed=40, spec={"ttlStrategy": {"secondsAfterCompletion": 600}})

    await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
    await play("first")
    await watch.agrees("healthy", True, "Ready", synced=1)

    answers(503)
    await play("second")
    await watch.agrees("the tracker is down", False, "Unreachable", synced=1, pending=1)

    await stage.reaches("second", "Pending", reason="OutboxFull")  # of the 100 bytes that it may take
    said = await asyncio.to_thread(watch.said_of, "second")
    assert said == dict.fromkeys(("kubectl get", "its newest Event", "pipetrail status", "/metrics"), "OutboxFull")
    await watch.agrees("no copy of the run can be put aside", False, "Unreachable", synced=1, pending=1)

    answers(401)
    await watch.agrees("it does not take our token", False, "AuthenticationFailed", synced=1, pending=1)

    before_mlflow.decide = lambda _seen: Pass()
    await watch.agrees("it has recovered", True, "Ready", synced=2)

    def refuses(seen: Seen) -> Answer | Pass:
        return Answer(400, REFUSED) if seen.ends("/runs/create") else Pass()

    before_mlflow.decide = refuses
    await play("third")
    await watch.agrees("a run is refused for good", True, "Ready", synced=2, failed=1)
