"""The command: bring up, watch a run arrive, compare, leave all running."""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from deploy.demo import parts, rows, sides
from deploy.demo.live import Live
from deploy.demo.parts import Book, Cluster, Operator, Started, Trouble
from deploy.demo.show import Show
from deploy.demo.sides import Run
from deploy.local.layout import state_folder
from tests.real.crds import wait_established

from pipetrail import recording, replay
from pipetrail.kube import TRACKED_RUNS, Kube, KubeError
from pipetrail.targets.mlflow import links
from pipetrail.targets.target import Handle

HERE = Path(__file__).resolve().parent
PIPELINE = HERE / "churn-sweep"
WORDS = "mlflow|wandb|neptune|comet|tensorboard|aim|tracking|experiment_tracker|pipetrail"
NAMESPACE = "pipetrail-demo"
TARGET_WITHIN_S = 45.0
SETTLED_WITHIN_S = 60.0
PODS_WITHIN_S = 600.0
ABOUT = """\
See Pipetrail work: a training pipeline with a small sweep runs, and what it computes arrives in MLflow, value for
value, though nothing in the pipeline knows of any tracker. The operator is killed once on the way.

By default a recorded real run is played onto a real API server in its own time (51 s). With --pods the same pipeline
runs in real pods (Linux, root). Everything is left running for you to look at; --down takes it away.

exit codes: 0 all values are equal; 1 they are not, or something is to be mended, and the message says what; 2 usage
"""


def main() -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        "python -m deploy.demo", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", action="store_true", help="in real pods instead of a recording")
    parser.add_argument("--context", help="your own cluster, by its kubeconfig context; nothing is built")
    parser.add_argument("--check", action="store_true", help="stop everything at the end (for CI)")
    parser.add_argument("--down", action="store_true", help="stop what an earlier demo left running")
    given = parser.parse_args()
    if given.pods and given.context:
        parser.error("--pods runs on this machine's own cluster, whose images it knows: leave out --context")
    if not given.pods and given.context and not os.environ.get("PIPETRAIL_S3_ENDPOINT"):
        parser.error(
            "--context needs an S3 store for the recorded objects: set PIPETRAIL_S3_ENDPOINT, PIPETRAIL_S3_BUCKET, "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    show = Show()
    # A check beside a demo that someone looks at disturbs nothing of it.
    book = Book(state_folder() / "demo-check") if given.check else Book()
    if given.down:
        parts.down(book, show.line)
        show.line("nothing of the demo runs any more")
        return 0
    try:
        return asyncio.run(Demo(show, book, pods=given.pods, context=given.context, check=given.check).run())
    except (Trouble, KubeError, replay.ReplayError, TimeoutError) as error:
        show.line(f"\nerror: {error}", "bold red")
        show.line(f"logs: {book.folder}; what was started goes on until: make demo-down")
        return 1
    except KeyboardInterrupt:
        show.line("\ninterrupted; `make demo-down` stops what was started")
        return 130
    finally:
        if given.check:
            parts.down(book, show.line)


class Demo:
    """One demonstration, from nothing to the table."""

    def __init__(self, show: Show, book: Book, *, pods: bool, context: str | None, check: bool) -> None:
        self._show = show
        self._book = book
        self._pods = pods
        self._context = context
        self._check = check
        self._namespace = f"{NAMESPACE}-check" if check else NAMESPACE
        self._begun = time.monotonic()

    async def run(self) -> int:
        """Show it all; 0 if every value is equal and nothing is there twice."""
        self._show_pipeline()
        self._show.title("Starting a real API server, MLflow and the operator")
        (cluster, operator), server = await asyncio.gather(
            self._cluster_and_operator(), asyncio.to_thread(parts.mlflow_up, self._book, self._says("MLflow"))
        )
        async with await sides.connect(cluster) as kube:
            await self._apply_target(kube, cluster, server)
            self._show.line(f"  ready after {time.monotonic() - self._begun:.0f} s")
            run = await self._watch(kube, cluster, operator, server)
            body = await sides.workflow(kube, run)
        self._show.title("kubectl get tt,trun")
        self._show.line(cluster.run("-n", run.namespace, "get", "tt,trun").rstrip())
        wrote, argo = await asyncio.gather(sides.wrote(PIPELINE, cluster, run, body), sides.argo(cluster, body))
        tracked = await asyncio.to_thread(sides.tracked, server.url, run.uid)
        return self._verdict(rows.rows(wrote, argo, tracked.held), tracked, run, server)

    def _show_pipeline(self) -> None:
        manifest = PIPELINE / "workflow.yaml"
        shown = manifest.relative_to(parts.REPO)
        self._show.title("The pipeline, as its author wrote it")
        found = subprocess.run(["grep", "-ciE", WORDS, str(manifest)], capture_output=True, text=True, check=False)
        self._show.line(f"  $ grep -ciE '{WORDS}' {shown}")
        self._show.line(
            f"  {found.stdout.strip()}      no word of a tracker in its {len(manifest.read_text().splitlines())} lines"
        )
        self._show.line(
            "  prepare, then train with depth 2, 4 and 6, then evaluate, then report; train does no more than:"
        )
        code = next(line for line in manifest.read_text().splitlines() if "import json, time, math" in line)
        for line in code.strip().removeprefix('- "').removesuffix('"').split("\\n"):
            if line.strip():
                self._show.line("    " + line.replace('\\"', '"'), "dim")

    def _says(self, place: str) -> Callable[[str], None]:
        return lambda text: self._show.event(place, text)

    async def _cluster_and_operator(self) -> tuple[Cluster, Operator]:
        return await asyncio.to_thread(self._bring_up)

    def _bring_up(self) -> tuple[Cluster, Operator]:
        say = self._says("cluster")
        if self._context or self._pods:
            self._book.note(context=self._context, namespaces=(self._namespace,))
        if self._context:
            cluster = parts.own_cluster(self._context, self._namespace)
        else:
            cluster = parts.local_cluster(self._book, say, pods=self._pods)
            parts.local_namespace(cluster, self._namespace)
        cluster.run("apply", "--server-side", "--force-conflicts", "-f", str(parts.REPO / "crds"))
        # The operator looks for them once it starts, and again only seconds later.
        wait_established(cluster.run)
        say("Pipetrail's resource definitions are applied")
        operator = Operator(self._book, cluster, self._namespace)
        operator.start()
        operator.wait_ready()
        self._show.event("operator", f"watches namespace {self._namespace}; log: {operator.log}")
        return cluster, operator

    async def _apply_target(self, kube: Kube, cluster: Cluster, server: Started) -> None:
        manifest = (HERE / "target.yaml").read_text().replace("MLFLOW", server.url)
        self._show.title("kubectl apply: all that an admin does")
        for line in manifest.splitlines():
            if not line.startswith("#"):
                self._show.line(f"    {line}", "dim")
        self._show.line("  " + cluster.run("-n", self._namespace, "apply", "-f", "-", given=manifest).strip())
        path = f"{TRACKED_RUNS}/namespaces/{self._namespace}/trackingtargets/mlflow"

        async def ready() -> bool:
            conditions = ((await kube.get(path)).get("status") or {}).get("conditions", ())
            return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

        await _until(
            ready, TARGET_WITHIN_S, f"the target is not Ready; `kubectl -n {self._namespace} describe tt mlflow`"
        )

    async def _watch(self, kube: Kube, cluster: Cluster, operator: Operator, server: Started) -> Run:
        self._show.title(
            "The run, in real pods" if self._pods else "The run: a recorded real one, played in its own time"
        )
        if self._pods:
            run = await self._submit(kube, cluster)
            playing = None
        else:
            run, playing = await self._play(kube, cluster)
        live = Live(kube, run, server.url, self._show.event)
        watching = asyncio.create_task(live.watch())
        killing = asyncio.create_task(self._kill_once(live, operator))
        try:
            async with asyncio.timeout(PODS_WITHIN_S):
                ended = asyncio.create_task(live.run_ended.wait())
                await asyncio.wait(
                    [ended, watching, *([playing] if playing else [])], return_when=asyncio.FIRST_EXCEPTION
                )
                for task in (playing, watching):
                    if task and task.done():
                        task.result()
            await killing
            async with asyncio.timeout(SETTLED_WITHIN_S):
                await live.settled.wait()
        except TimeoutError:
            raise Trouble(
                f"the run is not settled (TrackedRun: {live.sync or 'none'}); the operator's last words in "
                f"{operator.log}:\n{operator.said()}"
            ) from None
        finally:
            for task in (killing, watching):
                task.cancel()
            await asyncio.wait([killing, watching])
        return run

    async def _submit(self, kube: Kube, cluster: Cluster) -> Run:
        made = cluster.run("-n", self._namespace, "create", "-o", "name", "-f", str(PIPELINE / "workflow.yaml"))
        run = Run(self._namespace, made.strip().rpartition("/")[2], "")
        return run._replace(uid=(await sides.workflow(kube, run))["metadata"]["uid"])

    async def _play(self, kube: Kube, cluster: Cluster) -> tuple[Run, asyncio.Task[replay.Replayed]]:
        s3 = cluster.s3
        store = replay.Store(endpoint=s3["endpoint"], bucket=s3["bucket"], region=s3["region"])
        script = replay.script(recording.load(PIPELINE).events(), namespace=self._namespace, store=store)
        name = replay.fresh_name(script)
        await replay.prepare(kube, self._namespace)
        await replay.upload(PIPELINE, script, kube, name=name)
        made = asyncio.Event()
        playing = asyncio.create_task(replay.replay(script, kube, name=name, on_move=lambda _: made.set()))
        first = asyncio.create_task(made.wait())
        await asyncio.wait([first, playing], return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
        run = Run(self._namespace, name, "", recorded=script.name)
        return run._replace(uid=(await sides.workflow(kube, run))["metadata"]["uid"]), playing

    async def _kill_once(self, live: Live, operator: Operator) -> None:
        """At the worst of moments: results of the sweep are there, and on their way."""
        await live.a_pod_of_the_loop_ended.wait()
        killed = operator.pid
        await asyncio.to_thread(operator.kill)
        live.say("operator", f"killed with SIGKILL (process {killed}) while results are on their way")
        operator.start()
        await asyncio.to_thread(operator.wait_ready)
        live.say("operator", f"started again (process {operator.pid})")

    def _verdict(self, table: list[rows.Row], tracked: sides.Tracked, run: Run, server: Started) -> int:
        self._show.title("Each value: as the code wrote it, as Argo holds it, as MLflow's own client reads it")
        self._show.values(table)
        wrong = [row for row in table if not row.equal]
        twice = rows.doubles(tracked.keys, tracked.held.values())
        points = sum(len(series) for held in tracked.held.values() for series in held.points.values())
        self._show.line()
        for text in twice:
            self._show.line(f"✗ {text}", "bold red")
        if not twice:
            self._show.line(
                f"✓ nothing is there twice, though the operator was killed: {len(tracked.keys)} runs with a key each, "
                f"{points} points in their full histories", "green",
            )  # fmt: skip
        equal = len(table) - len(wrong)
        good = not wrong and not twice and bool(table)
        self._show.line(
            f"{'✓' if good else '✗'} {equal} of {len(table)} values are equal as float64",
            "green" if good else "bold red",
        )
        compare = re.search(r"\((http[^)\s]*compare-runs[^)\s]*)\)", tracked.note)
        children = [Handle(id=child, experiment_id=tracked.experiment) for child in tracked.children]
        self._show.title("Look at it")
        self._show.line(f"  the run      {links.run_page(server.url, tracked.experiment, tracked.parent)}")
        self._show.line(f"  the sweep    {compare[1] if compare else links.compare_page(server.url, children)}")
        self._show.line(f"  kubectl      kubectl -n {run.namespace} get tt,trun,wf")
        self._show.line(f"  took {time.monotonic() - self._begun:.0f} s")
        if not self._check:
            self._show.line("  everything goes on running; to stop it:  make demo-down", "bold")
        return 0 if good else 1


async def _first_failure(event: asyncio.Event, tasks: list[asyncio.Task[Any]]) -> None:
    """Until `event` is set; what fails before that is raised here."""
    waiting = asyncio.create_task(event.wait())
    pending: set[asyncio.Task[Any]] = {waiting, *tasks}
    while not event.is_set():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _until(true: Callable[[], Awaitable[bool]], within_s: float, otherwise: str) -> None:
    until = time.monotonic() + within_s
    while not await true():
        if time.monotonic() > until:
            raise Trouble(otherwise)
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
