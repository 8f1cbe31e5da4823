"""``pipetrail confirm-close``: runs that vanished together are gone for good, and may be closed."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from pipetrail import api
from pipetrail.cli import cluster
from pipetrail.cli.console import console, show
from pipetrail.cli.options import Context, Namespace, Output
from pipetrail.kube import ApiError, Kube, KubeError


def confirm_close(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET", help="Targets that hold runs; without any they are listed.", show_default=False
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every target that holds runs.")] = False,
    everywhere: Annotated[bool, typer.Option("-A", "--all-namespaces", help="In every namespace.")] = False,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = "table",
) -> None:
    """Confirm that runs whose objects are gone are gone for good: the operator then closes them.

    Where more than 20 runs and more than a fifth of those that are not settled are gone at once, the operator closes
    none of them: it may be a mishap that is mended soon. It says so by the condition MassOrphanGuard of the targets.
    Once confirmed, they are closed in the tracker as killed and counted as lost. That can't be taken back.

    It sets the annotation pipetrail.dev/confirm-close on the targets, for what is held now and nothing later. That
    takes the role edit in the namespace, and for a ClusterTrackingTarget the cluster's admin.

    Exit codes: 0 it is confirmed; 1 nothing is held, or targets that hold runs were listed; 2 the command line is
    wrong; 3 no cluster, or no right.

    Examples:
      pipetrail confirm-close -A
      pipetrail confirm-close mlflow -n team-a
      pipetrail confirm-close --all -A
    """
    if targets and every:
        raise typer.BadParameter("name targets, or give --all", param_hint="TARGET")
    if everywhere and (namespace is not None or targets):
        raise typer.BadParameter("it goes without -n and without names", param_hint="-A")
    where = None if everywhere else cluster.namespace_of(context, namespace)
    rows = cluster.with_cluster(context, lambda kube: _confirm(kube, where, targets or [], every=every))
    show(rows, output, lambda: _show(rows, where))
    raise typer.Exit(0 if rows and all(row["confirmed"] for row in rows) else 1)


async def _confirm(kube: Kube, namespace: str | None, names: Sequence[str], *, every: bool) -> list[dict[str, Any]]:
    found = await cluster.targets(kube, namespace)
    holding = [t for t in found if isinstance(t, api.FoundTarget) and t.hold is not None]
    for name in names:
        if name not in {target.ref.name for target in found}:
            raise KubeError(f"namespace {namespace} sees no target {name}; pipetrail status lists them")
    # A name means the namespace's own target if there is one; all of a namespace are its own.
    own = {target.ref.name for target in found if target.ref.namespace}
    rows = []
    for target in holding:
        meant = bool(target.ref.namespace) or (namespace is None if every else target.ref.name not in own)
        if (names and target.ref.name not in names) or (not meant and (names or every)):
            continue
        assert target.hold is not None
        if confirmed := every or bool(names):
            await _annotate(kube, target.ref, target.hold.last_transition_time)
        rows.append({"target": str(target.ref), "since": target.hold.last_transition_time, "confirmed": confirmed,
                     "message": target.hold.message})  # fmt: skip
    return rows


async def _annotate(kube: Kube, ref: api.TargetRef, which: str) -> None:
    try:
        await kube.patch(cluster.path_of(ref), {"metadata": {"annotations": {api.CONFIRM_ANNOTATION: which}}})
    except ApiError as error:
        if error.status == 403:
            takes = f"the role edit in namespace {ref.namespace}" if ref.namespace else "an admin of the cluster"
            raise KubeError(f"you may not annotate {ref}: it takes {takes}") from None
        raise


def _show(rows: list[dict[str, Any]], namespace: str | None) -> None:
    out = console()
    if not rows:
        out.print(f"No target {'of ' + namespace if namespace else 'anywhere'} that was asked about holds runs.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("TARGET", "HOLDS SINCE", "CONFIRMED", "WHAT"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row["target"], row["since"], "yes" if row["confirmed"] else "no", row["message"].split(":")[0])
    out.print(table)
    if all(row["confirmed"] for row in rows):
        out.print("The operator closes them now; pipetrail status shows how far it is.")
    else:
        out.print("To have them closed name the target, or give --all. If they may come back: wait.")
