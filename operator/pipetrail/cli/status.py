"""``pipetrail status``: how every target and its runs are, and what to do next."""

from typing import Annotated, Any

import typer
from rich.table import Table

from pipetrail import api
from pipetrail.cli import cluster
from pipetrail.cli.console import console, show
from pipetrail.cli.options import Context, Output
from pipetrail.kube import TRACKED_RUNS, Kube


def status(
    context: Context = None,
    namespace: Annotated[
        str | None,
        typer.Option("-n", "--namespace", help="Only this namespace; default: all.", show_default=False),
    ] = None,
    output: Output = "table",
    limit: Annotated[int, typer.Option(help="Show at most this many runs that are not synced.", min=0)] = 20,
) -> None:
    """Show how targets and tracked runs are, and the next step where something is wrong.

    Exit codes: 0 every target is ready (or suspended), no run has failed and none is held; 1 something is wrong; 2 the
    command line is wrong; 3 no cluster, or no right to look at it.

    Examples:
      pipetrail status
      pipetrail status -n team-a
      pipetrail status -o json | jq '.runs | map(select(.sync == "Failed"))'
    """
    found = cluster.with_cluster(context, lambda kube: _gather(kube, namespace))
    show(found, output, lambda: _show(found, limit))
    raise typer.Exit(1 if _wrong(found) else 0)


async def _gather(kube: Kube, namespace: str | None) -> dict[str, Any]:
    scope = f"/namespaces/{namespace}" if namespace else ""
    targets = []
    for target in await cluster.targets(kube, namespace):
        body = await cluster.body_of(kube, target.ref)
        said = body.get("status") or {}
        ready: dict[str, Any] = next((c for c in said.get("conditions", ()) if c["type"] == "Ready"), {})
        reason = ready.get("reason", "Pending")
        known = api.REASONS.get(reason)
        held: dict[str, Any] = next((c for c in said.get("conditions", ()) if c["type"] == api.HELD), {})
        targets.append(
            {
                "target": str(target.ref), "backend": said.get("backend", ""), "ready": ready.get("status", "Unknown"),
                "reason": reason, "message": ready.get("message", ""), **(said.get("sync") or {}),
                "nextStep": known.next_step if known else "", "held": held.get("message", ""),
                "backfill": said.get("backfill"),
            }
        )  # fmt: skip
    runs = []
    async for page in kube.pages(f"{TRACKED_RUNS}{scope}/trackedruns"):
        for item in page.get("items", ()):
            said, spec = item.get("status") or {}, item.get("spec") or {}
            runs.append(
                {
                    "run": f"{item['metadata']['namespace']}/{spec.get('run', {}).get('name')}",
                    "target": spec.get("target", {}).get("name"), "sync": said.get("phase", "Pending"),
                    "outcome": said.get("outcome", ""), "reason": said.get("reason", ""),
                    "message": said.get("message", ""), "changed": (said.get("changes") or {}).get("total", 0),
                    "url": said.get("url", ""), "created": item["metadata"].get("creationTimestamp", ""),
                }
            )  # fmt: skip
    return {"targets": targets, "runs": runs}


def _wrong(found: dict[str, Any]) -> bool:
    troubled = any(t["held"] or (t["ready"] != "True" and t["reason"] != "Suspended") for t in found["targets"])
    return troubled or any(r["sync"] == "Failed" for r in found["runs"])


def _show(found: dict[str, Any], limit: int) -> None:
    out = console()
    if not found["targets"]:
        out.print("No targets. The smallest: spec: {backend: {mlflow: {trackingUri: http://…}}}; see the README.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("TARGET", "BACKEND", "READY", "REASON", "SYNCED", "PENDING", "FAILED", "LAST SYNC"):
        table.add_column(name, overflow="fold")
    for t in found["targets"]:
        table.add_row(
            t["target"], t["backend"], t["ready"], t["reason"],
            *(str(t.get(k, 0)) for k in ("synced", "pending", "failed")), t.get("lastSync") or "-",
        )  # fmt: skip
    out.print(table)
    for t in found["targets"]:
        if t["ready"] != "True":
            out.print(f"\n{t['target']}: {t['reason']}: {t['message']}")
            out.print(f"  next: {t['nextStep']}")
        if t["held"]:
            out.print(f"\n{t['target']}: {api.HELD}: {t['held']}")
        if (going := api.backfill_of(t)) is not None and (going.phase == "Refused" or not going.over):
            said = going.message or f"{going.sent + going.already + going.failed} of {going.chosen}"
            out.print(f"\n{t['target']}: backfill: {going.phase}: {said}")
    open_runs = [r for r in found["runs"] if r["sync"] != "Synced"]
    if not open_runs:
        out.print(f"\nAll {len(found['runs'])} tracked runs are synced.")
        return
    order = {"Failed": 0, "Pending": 1, "Tracking": 2}
    open_runs.sort(key=lambda r: (order.get(r["sync"], 3), r["created"]))
    table = Table(box=None, pad_edge=False)
    for name in ("RUN", "TARGET", "SYNC", "OUTCOME", "REASON", "MESSAGE"):
        table.add_column(name, overflow="fold")
    for r in open_runs[:limit]:
        table.add_row(r["run"], r["target"], r["sync"], r["outcome"], r["reason"], r["message"])
    out.print()
    out.print(table)
    if len(open_runs) > limit:
        out.print(f"and {len(open_runs) - limit} more (--limit)")
