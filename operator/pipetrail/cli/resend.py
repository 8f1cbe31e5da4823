"""``pipetrail resend``: ask the operator to send runs again."""

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Final, get_args

import msgspec
import typer
from rich.table import Table

from pipetrail import api
from pipetrail.api import SyncPhase
from pipetrail.cli import cluster
from pipetrail.cli.console import console, show
from pipetrail.cli.options import Context, Namespace, Output
from pipetrail.kube import ARGO, TRACKED_RUNS, ApiError, Kube, KubeError

ASKED: Final = "Asked"
PHASES: Final[tuple[str, ...]] = get_args(SyncPhase)


def resend(
    run: Annotated[
        str | None, typer.Argument(help="Name or uid of a run, or name of a TrackedRun.", show_default=False)
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(
            "-l",
            "--selector",
            show_default=False,
            help="Labels of TrackedRuns, as in pipetrail.dev/pipeline=churn or pipetrail.dev/target=mlflow.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the namespace.")] = False,
    phase: Annotated[
        list[str] | None,
        typer.Option(
            "--phase",
            show_default=False,
            help="With --selector and --all: only those in this phase (repeat for more); default: Failed.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Only to the target of this name.", show_default=False)
    ] = None,
    repolicy: Annotated[
        bool,
        typer.Option(
            "--repolicy",
            help="Under the target's policy as it is now (names, capture, redaction), as a tracker run of its own. "
            "Without it: under the policy that was fixed when the run was first seen.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be asked for, and ask nothing.")] = False,
    everywhere: Annotated[bool, typer.Option("-A", "--all-namespaces", help="In every namespace.")] = False,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = "table",
) -> None:
    """Ask the operator to send runs again: dead letters, or runs whose tracker lost them.

    What a tracker holds already is not sent twice: the operator looks first. It needs the run's object to stand. Name
    one run, or choose with --selector or --all, which take those that Failed unless --phase says otherwise.

    It sets the annotation pipetrail.dev/resend on TrackedRuns, which takes the role edit; the operator sees it at once
    and says on the TrackedRun what became of it.

    Exit codes: 0 all were asked for; 1 nothing was found, or something can't be sent again; 2 the command line is
    wrong; 3 no cluster, or no right.

    Examples:
      pipetrail resend churn-sweep-x7k2p -n team-a
      pipetrail resend --all -A
      pipetrail resend -l pipetrail.dev/pipeline=churn-sweep --phase Synced --target mlflow --repolicy -n team-a
    """
    if sum((run is not None, selector is not None, every)) != 1:
        raise typer.BadParameter("name one run, or give --selector or --all", param_hint="RUN")
    if everywhere and (namespace is not None or run is not None):
        raise typer.BadParameter("it goes with --selector and --all, without -n", param_hint="-A")
    if phase and run is not None:
        raise typer.BadParameter("it goes with --selector and --all; a run that is named is sent", param_hint="--phase")
    if unknown := [one for one in phase or () if one not in PHASES]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(PHASES)}", param_hint="--phase")
    where = None if everywhere else cluster.namespace_of(context, namespace)
    wish = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    wish = f"{api.REPOLICY} {wish}" if repolicy else wish
    phases = tuple(phase or ("Failed",)) if run is None else PHASES

    async def ask(kube: Kube) -> list[dict[str, Any]]:
        rows = await _chosen(kube, where, run, selector or "", phases, target)
        await _judge(kube, rows)
        for row in rows:
            if row["asked"] == ASKED and not dry_run:
                await _ask(kube, row, wish)
        return rows

    rows = cluster.with_cluster(context, ask)
    show(rows, output, lambda: _show(rows, run, where, phases, dry_run=dry_run))
    raise typer.Exit(0 if rows and all(row["asked"] == ASKED for row in rows) else 1)


async def _chosen(
    kube: Kube, namespace: str | None, run: str | None, selector: str, phases: Sequence[str], target: str | None
) -> list[dict[str, Any]]:
    """The newest attempt of each run and target that is meant."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    query: dict[str, Any] = {"labelSelector": selector} if selector else {}
    newest: dict[tuple[str, str, str], tuple[int, dict[str, Any]]] = {}
    async for page in kube.pages(f"{TRACKED_RUNS}{scope}/trackedruns", **query):
        for item in page.get("items", ()):
            try:
                spec = msgspec.convert(item["spec"], api.TrackedRunSpec)
            except (KeyError, msgspec.ValidationError):
                continue  # none that an operator of this version wrote
            meta = item["metadata"]
            row = {
                "run": f"{meta['namespace']}/{spec.run.name}", "target": str(spec.target), "trackedRun": meta["name"],
                "sync": (item.get("status") or {}).get("phase", "Pending"), "uid": spec.run.uid,
                "reason": (item.get("status") or {}).get("reason", ""), "asked": ASKED,
            }  # fmt: skip
            key = (meta["namespace"], spec.run.uid, str(spec.target))
            if target in (None, spec.target.name) and newest.get(key, (0, {}))[0] < spec.attempt:
                newest[key] = (spec.attempt, row)
    rows = [row for _, row in newest.values()]
    if run is not None:
        rows = [row for row in rows if run in (row["run"].partition("/")[2], row["uid"], row["trackedRun"])]
    return sorted((row for row in rows if row["sync"] in phases), key=lambda row: (row["run"], row["target"]))


async def _judge(kube: Kube, rows: list[dict[str, Any]]) -> None:
    """Say of each row why it can't be sent again, where that is known here."""
    for namespace in {row["run"].partition("/")[0] for row in rows}:
        mine = [row for row in rows if row["run"].startswith(f"{namespace}/")]
        there = {str(found.ref) for found in await cluster.targets(kube, namespace)}
        clusterwide = any(name.startswith("ClusterTrackingTarget/") for name in there)
        for row in mine:
            # Who may not see the cluster's targets is not told that there are none.
            if row["target"] not in there and (clusterwide or not row["target"].startswith("Cluster")):
                row["asked"] = "its target is gone"
        standing = await _uids(kube, namespace)
        for row in mine:
            if row["asked"] == ASKED and standing is not None and row["uid"] not in standing:
                row["note"] = "the run's object is gone: only a copy that the operator kept can be sent"


async def _uids(kube: Kube, namespace: str) -> set[str] | None:
    """Uids of the Workflows that stand; null if the caller may not list them, or there are no Workflows here."""
    found = set()
    try:
        async for page in kube.pages(f"{ARGO}/namespaces/{namespace}/workflows", metadata_only=True):
            found |= {item["metadata"]["uid"] for item in page["items"]}
    except ApiError as error:
        if error.status not in (403, 404):
            raise
        return None
    return found


async def _ask(kube: Kube, row: dict[str, Any], wish: str) -> None:
    namespace = row["run"].partition("/")[0]
    path = f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns/{row['trackedRun']}"
    try:
        await kube.patch(path, {"metadata": {"annotations": {api.RESEND_ANNOTATION: wish}}})
    except ApiError as error:
        if error.status == 404:
            row["asked"] = "it was deleted meanwhile"
            return
        if error.status == 403:
            raise KubeError(
                f"you may not annotate TrackedRuns in namespace {namespace}: it takes the role edit"
            ) from None
        raise


def _show(
    rows: list[dict[str, Any]], run: str | None, namespace: str | None, phases: Sequence[str], *, dry_run: bool
) -> None:
    out = console()
    where = f"namespace {namespace}" if namespace else "any namespace"
    if not rows:
        what = f"no target records {run}" if run is not None else f"nothing to send again ({', '.join(phases)})"
        out.print(f"In {where} there is {what}." if run is None else f"In {where} {what}: pipetrail explain says why.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("RUN", "TARGET", "SYNC", "REASON", "ASKED"):
        table.add_column(name, overflow="fold")
    for row in rows:
        asked = row["asked"] if row["asked"] != ASKED else "would be asked" if dry_run else "yes"
        table.add_row(row["run"], row["target"], row["sync"], row["reason"], asked)
    out.print(table)
    notes = [row for row in rows if "note" in row]
    for row in notes[:5]:
        out.print(f"{row['run']}: {row['note']}")
    if len(notes) > 5:
        out.print(f"and of {len(notes) - 5} more the object is gone")
    if not dry_run:
        out.print("What becomes of them: kubectl get trun, or pipetrail status")
