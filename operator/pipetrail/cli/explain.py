"""``pipetrail explain``: which targets record a run, which leave it, and by which rule."""

from typing import Annotated, Any

import typer
from rich.table import Table

from pipetrail import api, policy
from pipetrail.cli import cluster
from pipetrail.cli.console import console, show
from pipetrail.cli.options import Context, Namespace, Output
from pipetrail.kube import TRACKED_RUNS, Kube
from pipetrail.readers import argo as objects
from pipetrail.record import Record


def explain(
    run: Annotated[str, typer.Argument(help="Name or uid of a Workflow.")],
    context: Context = None,
    namespace: Namespace = None,
    output: Output = "table",
) -> None:
    """Say for each target whether it records a run, by which rule, and how far the recording is.

    The first rule that leaves the run decides; Selected means that none does. SYNC is the phase of its TrackedRun.

    Exit codes: 0 at least one target records it; 1 none does; 2 the command line is wrong; 3 the run or the cluster
    could not be had.

    Examples:
      pipetrail explain churn-sweep-x7k2p -n team-a
      pipetrail explain churn-sweep-x7k2p -n team-a -o yaml
    """
    where = cluster.namespace_of(context, namespace)
    rows = cluster.with_cluster(context, lambda kube: _explain(kube, run, where))
    show(rows, output, lambda: _show(rows, run, where))
    raise typer.Exit(0 if any(row["records"] for row in rows) else 1)


async def _explain(kube: Kube, name: str, namespace: str) -> list[dict[str, Any]]:
    header, reading = await cluster.read_run(kube, await cluster.find_run(kube, name, namespace))
    record = reading.record
    body = await kube.get(f"/api/v1/namespaces/{namespace}")
    facts = policy.facts(header, body.get("metadata") or {}, await objects.made_from(kube, header))
    found = await cluster.targets(kube, namespace)
    usable = [t for t in found if isinstance(t, api.FoundTarget)]
    rows = [_row(kind_of, decision) for kind_of, decision in policy.decide_all(facts, usable)]
    rows += [
        {"target": str(t.ref), "records": False, "rule": t.reason, "why": t.message}
        for t in found
        if isinstance(t, api.InvalidTarget)
    ]
    for row, target in zip(rows, usable, strict=False):
        row |= await _delivered(kube, namespace, record, target.ref)
    return rows


def _row(target: api.FoundTarget, decision: policy.Decision) -> dict[str, Any]:
    match decision:
        case policy.Taken(rule=rule, why=why):
            said = f"{why}; but it is suspended, so the run waits" if target.spec.suspend else why
            return {"target": str(target.ref), "records": True, "rule": str(rule), "why": said}
        case policy.Left(rule=rule, why=why):
            return {"target": str(target.ref), "records": False, "rule": str(rule), "why": why}


async def _delivered(kube: Kube, namespace: str, record: Record, ref: api.TargetRef) -> dict[str, Any]:
    name = api.tracked_run_name(record.name, record.key.uid, ref)
    async for page in kube.pages(
        f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns", fieldSelector=f"metadata.name={name}"
    ):
        for item in page.get("items", ()):
            said = item.get("status") or {}
            return {
                "records": True,
                "trackedRun": name,
                "sync": said.get("phase", "Pending"),
                "url": said.get("url", ""),
            }
    return {}


def _show(rows: list[dict[str, Any]], run: str, namespace: str) -> None:
    out = console()
    if not rows:
        out.print(
            f"There is no target that could see {namespace}/{run}. Make a TrackingTarget in namespace {namespace}."
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("TARGET", "RECORDS", "RULE", "SYNC", "WHY"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row["target"], "yes" if row["records"] else "no", row["rule"], row.get("sync", "-"), row["why"])
    out.print(table)
