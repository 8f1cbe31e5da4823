"""What happens while it happens: a line per step as its pod ends, as Argo says so, and as it shows up in MLflow."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from deploy.demo import rows, sides
from deploy.demo.sides import Run

from pipetrail.kube import TRACKED_RUNS, Kube, KubeError

EVERY_S = 0.4
QUIET_S = 12.0
ENDED = ("Succeeded", "Failed", "Error")

Say = Callable[[str, str], None]


class Live:
    """Watches one run from both ends. `say` is given the place (cluster, MLflow, …) and the text."""

    def __init__(self, kube: Kube, run: Run, mlflow: str, say: Say) -> None:
        self._kube = kube
        self._run = run
        self._mlflow = mlflow
        self._told = say
        self._begun = self._spoke = time.monotonic()
        self._steps: dict[str, str] = {}  # pod -> what people call the step
        self._pods: set[str] = set()
        self._waiting = ""
        self._nodes: set[str] = set()
        self._seen: dict[str, set[str]] = {}
        self._arrived: dict[str, float] = {}
        self.a_pod_of_the_loop_ended = asyncio.Event()
        self.run_ended = asyncio.Event()
        self.settled = asyncio.Event()
        self.sync = ""

    def say(self, place: str, text: str) -> None:
        """A line with its time."""
        self._spoke = time.monotonic()
        self._told(place, f"{self._spoke - self._begun:5.1f} s  {text}")

    async def watch(self) -> None:
        """Until the run has ended and its TrackedRun is settled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while not self.settled.is_set():
                for look in (self._look_at_cluster, self._look_at_ledger):
                    try:
                        await look()
                    except KubeError as error:
                        self.say("cluster", f"no answer: {error}")
                await self._look_at_mlflow(http)
                if time.monotonic() - self._spoke > QUIET_S:
                    self.say(
                        "", f"{self._waiting or 'the next step'} goes on; MLflow has {len(self._seen)} runs so far"
                    )
                await asyncio.sleep(EVERY_S)

    async def _look_at_cluster(self) -> None:
        pods = await self._kube.get(
            f"/api/v1/namespaces/{self._run.namespace}/pods",
            labelSelector=f"workflows.argoproj.io/workflow={self._run.name}",
        )
        going = [pod for pod in pods["items"] if (pod.get("status") or {}).get("phase") not in ENDED]
        self._waiting = ", ".join(f"{self._step_of(p)} ({(p.get('status') or {}).get('phase')})" for p in going)
        for pod in pods["items"]:
            name, phase = pod["metadata"]["name"], (pod.get("status") or {}).get("phase")
            if phase in ENDED and name not in self._pods:
                self._pods.add(name)
                step = self._step_of(pod)
                self.say("cluster", f"{step}: its pod {phase}")
                if step.startswith(sides.LOOP):
                    self.a_pod_of_the_loop_ended.set()
        body = await sides.workflow(self._kube, self._run)
        for node in sides.pod_nodes(body):
            if node["phase"] in ENDED and node["id"] not in self._nodes:
                self._nodes.add(node["id"])
                step = rows.label(node["displayName"])
                early = time.monotonic() - self._arrived[step] if step in self._arrived else 0.0
                note = f", {early:.1f} s after its values were in MLflow" if early > EVERY_S else ""
                self.say("Argo", f"{step} {node['phase']}{note}")
        phase = (body.get("status") or {}).get("phase")
        if phase in ENDED and not self.run_ended.is_set():
            self.run_ended.set()
            self.say("Argo", f"the run {phase}")

    def _step_of(self, pod: dict[str, Any]) -> str:
        """``churn-sweep-x7k2p.train(0:2)`` is `train depth=2`."""
        node = pod["metadata"].get("annotations", {}).get("workflows.argoproj.io/node-name", "")
        return rows.label(node.removeprefix(f"{self._run.name}."))

    async def _look_at_ledger(self) -> None:
        found = await self._kube.get(f"{TRACKED_RUNS}/namespaces/{self._run.namespace}/trackedruns")
        for item in found["items"]:
            if item["spec"]["run"]["uid"] == self._run.uid:
                phase = (item.get("status") or {}).get("phase", "Pending")
                if phase != self.sync:
                    self.sync = phase
                    self.say("ledger", f"TrackedRun {phase}")
                if phase in ("Synced", "Failed", "Skipped", "Stopped") and self.run_ended.is_set():
                    self.settled.set()

    async def _look_at_mlflow(self, http: aiohttp.ClientSession) -> None:
        try:
            for run in await self._runs(http):
                self._compare(run)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.say("MLflow", f"no answer: {type(error).__name__}")

    async def _runs(self, http: aiohttp.ClientSession) -> list[dict[str, Any]]:
        api = f"{self._mlflow}/api/2.0/mlflow"
        async with http.post(f"{api}/experiments/search", json={"max_results": 100}) as answer:
            ids = [e["experiment_id"] for e in (await answer.json()).get("experiments", ())]
        wanted = f"tags.`pipetrail.uid` = '{self._run.uid}'"
        body = {"experiment_ids": ids, "filter": wanted, "max_results": 100}
        async with http.post(f"{api}/runs/search", json=body) as answer:
            runs: list[dict[str, Any]] = (await answer.json()).get("runs", [])
            return runs

    def _compare(self, run: dict[str, Any]) -> None:
        name, status = run["info"]["run_name"], run["info"]["status"]
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = set()
            self.say("MLflow", f"a run appears: {name}")
        metrics = {m["key"]: m["value"] for m in run["data"].get("metrics", ())}
        new = {key: value for key, value in metrics.items() if key not in seen}
        if new:
            seen.update(new)
            for step in {name, *(key.partition("/")[0] for key in new if "/" in key)}:
                self._arrived.setdefault(step, time.monotonic())
            texts = [f"{key} {value:.6g}" for key, value in list(new.items())[:3]]
            more = f" and {len(new) - 3} more" if len(new) > 3 else ""
            self.say("MLflow", f"{name}: {', '.join(texts)}{more}")
        if status not in ("RUNNING", "SCHEDULED") and status not in seen:
            seen.add(status)
            self.say("MLflow", f"{name} is {status}")
