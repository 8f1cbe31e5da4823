"""``pipetrail verify``: read a run back from its trackers and compare, digit for digit."""

from typing import Any

import msgspec
import typer
from rich.table import Table

from pipetrail import api, capture, redact, shape
from pipetrail.cli import cluster
from pipetrail.cli.console import console, show
from pipetrail.cli.options import Context, Mlmd, Namespace, Output
from pipetrail.kube import TRACKED_RUNS, Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.targets import Site, connect
from pipetrail.targets.addresses import ANYWHERE
from pipetrail.targets.target import Target, Tree
from pipetrail.targets.verify import differences


def verify(
    run: str = typer.Argument(help="Name or uid of a Workflow that stands."),
    context: Context = None,
    namespace: Namespace = None,
    operator_namespace: str = typer.Option(Settings().namespace, help="Where ClusterTrackingTargets' Secrets lie."),
    tensorboard_root: str = typer.Option("", help="Where the operator's TensorBoard folder is mounted here."),
    mlmd: Mlmd = "",
    output: Output = "table",
) -> None:
    """Read a run back from every tracker that it is recorded in, and compare each value with what the cluster has.

    Values are compared as float64, bit for bit. Run it where the tracker's address and its Secret can be reached.

    Exit codes: 0 all agree; 1 something differs, is not there yet, or the run is recorded nowhere; 2 the command line
    is wrong; 3 the run, the cluster or the tracker could not be had.

    Examples:
      pipetrail verify churn-sweep-x7k2p -n team-a
      pipetrail verify churn-sweep-x7k2p -n team-a -o json
    """
    where = cluster.namespace_of(context, namespace)
    rows = cluster.with_cluster(
        context, lambda kube: _verify(kube, run, where, operator_namespace, tensorboard_root, mlmd)
    )
    show(rows, output, lambda: _show(rows, run, where))
    raise typer.Exit(0 if rows and all(row["equal"] for row in rows) else 1)


async def _verify(
    kube: Kube, name: str, namespace: str, operator_namespace: str, tensorboard_root: str, mlmd: str
) -> list[dict[str, Any]]:
    body = await cluster.find_run(kube, name, namespace)
    rows = []
    reader = LiveReader(kube, mlmd=mlmd)
    try:
        _, reading = await cluster.read_run(kube, body, reader)
        label = f"{api.GROUP}/uid={reading.record.key.uid}"
        async for page in kube.pages(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns", labelSelector=label):
            for item in page.get("items", ()):
                spec = msgspec.convert(item["spec"], api.TrackedRunSpec)
                found = api.decode_target({**await cluster.body_of(kube, spec.target), **_kind(spec.target)})
                if isinstance(found, api.InvalidTarget):
                    rows.append(_row(spec, "", 0, [], why=found.message))
                    continue
                captured = await capture.capture(reading, reader, capture.wants(spec.policy))
                clean = redact.redact(captured, additional_keys=spec.policy.redact.additional_keys)
                # The operator's keys hold the cluster's name as it knows it, which the TrackedRun remembers.
                named = msgspec.structs.replace(clean.key, cluster=spec.run.key.removesuffix(f"/{spec.run.uid}"))
                tree = shape.shape(
                    msgspec.structs.replace(clean, key=named), spec.policy, places=Settings().places,
                    cluster_target=spec.target.kind == "ClusterTrackingTarget", attempt=spec.attempt,
                    supersedes=spec.supersedes,
                )  # fmt: skip
                target = await connect(
                    found.spec.backend, cluster.resolver(kube, spec.target, operator_namespace),
                    Site(namespace=spec.target.namespace, tensorboard_root=tensorboard_root, addresses=ANYWHERE),
                )  # fmt: skip
                try:
                    rows.append(await _compare(target, tree, spec, (item.get("status") or {}).get("url", "")))
                finally:
                    await target.close()
    finally:
        await reader.close()
    return rows


def _kind(ref: api.TargetRef) -> dict[str, str]:
    return {"apiVersion": api.API_VERSION, "kind": ref.kind}


async def _compare(target: Target, tree: Tree, spec: api.TrackedRunSpec, url: str) -> dict[str, Any]:
    wanted = [
        msgspec.structs.replace(target.fit(run), experiment=spec.experiment or run.experiment) for run in tree.runs
    ]
    there: dict[str, list[Any]] = {}
    for held in await target.find(wanted[0]):
        there.setdefault(held.key, []).append(held)
    found, points = [], 0
    for run in wanted:
        copies = there.pop(run.key, [])
        points += len(run.metrics)
        if len(copies) != 1:
            found.append({"run": run.name, "item": "run", "key": run.key, "wanted": "1", "held": str(len(copies))})
            continue
        whole = await target.read(copies[0].handle)
        for d in differences(run, whole):
            step = "" if d.step is None else f"@{d.step}"
            found.append({"run": run.name, "item": d.item, "key": f"{d.key}{step}", "wanted": d.wanted, "held": d.held})
    found += [
        {"run": h.name, "item": "run", "key": key, "wanted": "0", "held": "1"}
        for key, held in there.items()
        for h in held
    ]
    return _row(spec, url, points, found, runs=len(wanted))


def _row(
    spec: api.TrackedRunSpec, url: str, points: int, found: list[dict[str, str]], *, runs: int = 0, why: str = ""
) -> dict[str, Any]:
    return {
        "target": str(spec.target), "equal": not found and not why, "trackerRuns": runs, "points": points, "url": url,
        "differences": found, "message": why,
    }  # fmt: skip


def _show(rows: list[dict[str, Any]], run: str, namespace: str) -> None:
    out = console()
    if not rows:
        out.print(f"{namespace}/{run} is recorded nowhere; `pipetrail explain {run} -n {namespace}` says why.")
        return
    for row in rows:
        verdict = "equal" if row["equal"] else row["message"] or f"{len(row['differences'])} differences"
        out.print(
            f"{row['target']}: {verdict} ({row['trackerRuns']} tracker runs, {row['points']} points) {row['url']}"
        )
        if row["differences"]:
            table = Table(box=None, pad_edge=False)
            for name in ("RUN", "ITEM", "KEY", "CLUSTER", "TRACKER"):
                table.add_column(name, overflow="fold")
            for d in row["differences"][:50]:
                table.add_row(d["run"], d["item"], d["key"], d["wanted"], d["held"])
            out.print(table)
