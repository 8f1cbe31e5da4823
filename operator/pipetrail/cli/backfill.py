"""``pipetrail backfill``: have runs recorded that had ended before their target was made."""

import asyncio
import datetime as dt
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipetrail import api
from pipetrail.api import Backfill, BackfillWish
from pipetrail.cli import cluster
from pipetrail.cli.backfill_candidates import judged, meant, show_judged, show_left
from pipetrail.cli.console import console, show
from pipetrail.cli.options import Context, Namespace, Output
from pipetrail.kube import ApiError, Kube, KubeError

POLL_S: Final = 1.0
TAKEN_UP_S: Final = 60.0
"""How long an operator has to take a wish up, before the command says that there seems to be none."""
LINE_EVERY_S: Final = 10.0
_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")
_UNITS: Final[Mapping[str, str]] = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def backfill(
    target: Annotated[str, typer.Option("--target", help="The target that shall have them.", show_default=False)],
    since: Annotated[
        str | None,
        typer.Option(
            help="Only runs that ended since then: 90d, 12h, or a time like 2026-01-31 or 2026-01-31T12:00:00Z. "
            "Default: all.",
            show_default=False,
        ),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Only runs of pipelines of this name (a glob).", show_default=False)
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(
            "-l", "--selector", help="Only Workflows with these labels, as in team=churn.", show_default=False
        ),
    ] = None,
    source: Annotated[
        Literal["cluster", "archive", "both"],
        typer.Option(help="Runs that stand in the cluster, runs that only Argo's archive has, or both."),
    ] = "both",
    rate: Annotated[
        float,
        typer.Option(
            help="Take up at most this many runs a second; 0: as many as the target lets through behind live ones.",
            min=0.0,
            max=api.MAX_RATE,
        ),
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be taken, and ask nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end, or ask and go.")] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of another backfill of the target that is under way.")
    ] = False,
    everywhere: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="All namespaces that a ClusterTrackingTarget sees.")
    ] = False,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = "table",
) -> None:
    """Have a target record runs that had ended before it was made, with their own times.

    They are read from the cluster, where they stand, and from Argo's archive, if the operator was told of one
    (--argo-server); --dry-run shows those of the cluster. The target's selection and opt-outs hold as for live runs,
    which go first. What the tracker has already is not sent again, so it may be asked for as often as you like; the
    operator goes on with it if this command is stopped.

    It sets the annotation pipetrail.dev/backfill on the target. That takes the role edit in its namespace, and for a
    ClusterTrackingTarget the cluster's admin. The name means the target of the namespace, if it has one.

    Exit codes: 0 all that the target takes is in the tracker (or was asked for, or shown); 1 some of it failed; 2 the
    command line is wrong; 3 no cluster, no right, or no operator that does it.

    Examples:
      pipetrail backfill --target mlflow -n team-a --since 90d --dry-run
      pipetrail backfill --target mlflow -n team-a --pipeline 'churn-*'
      pipetrail backfill --target shared -A --since 2026-01-01 --rate 5
    """
    if everywhere and namespace is not None:
        raise typer.BadParameter("it goes without -n", param_hint="-A")
    where = None if everywhere else cluster.namespace_of(context, namespace)
    now = dt.datetime.now(dt.UTC)
    wish = BackfillWish(
        asked=now, since=None if since is None else _moment(since, now), namespace=where or "",
        pipeline=pipeline or "", selector=selector or "", rate=rate,
        sources=("cluster", "archive") if source == "both" else (source,),
    )  # fmt: skip
    if dry_run and source == "archive":
        raise typer.BadParameter(
            "only the operator reads the archive; it shows runs of the cluster", param_hint="--dry-run"
        )
    if dry_run:
        rows = cluster.with_cluster(context, lambda kube: judged(kube, where, target, wish))
        show(rows, output, lambda: show_judged(rows))
        return
    done = cluster.with_cluster(context, lambda kube: _asked(kube, where, target, wish, wait=wait, replace=replace))
    show({"target": target, **api.to_json(done)}, output, lambda: _show_done(done, wait=wait))
    if done.phase == "Refused":
        raise typer.Exit(3)
    raise typer.Exit(1 if done.failed else 0)


def _moment(text: str, now: dt.datetime) -> dt.datetime:
    """``90d`` before `now`, or the time that `text` is; a day without a zone begins in UTC."""
    if (span := _SPAN.fullmatch(text.strip())) is not None:
        try:
            return now - dt.timedelta(**{_UNITS[span[2]]: int(span[1])})
        except OverflowError:
            raise typer.BadParameter(f"{text} reaches back too far", param_hint="--since") from None
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        said = f"{text!r} is neither a span like 90d or 12h nor a time like 2026-01-31T12:00:00Z"
        raise typer.BadParameter(said, param_hint="--since") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


# --- asking -----------------------------------------------------------------------------------------------------------


async def _asked(
    kube: Kube, namespace: str | None, name: str, wish: BackfillWish, *, wait: bool, replace: bool
) -> Backfill:
    """Ask for it, or join what was asked for and is under way; what has become of it."""
    target = await meant(kube, namespace, name)
    under_way = _under_way(target)
    if under_way is not None and under_way.covers(wish) and not replace:
        typer.echo(f"pipetrail: it was asked for at {under_way.number} and is under way", err=True)
        wish = under_way
    elif under_way is not None and not replace:
        raise KubeError(
            f"another backfill of {target.ref}, asked for at {under_way.number}, is under way; wait for it (pipetrail "
            "status shows how far it is), or stop it with --replace"
        )
    else:
        await _annotate(kube, target.ref, msgspec.json.encode(wish).decode())
    if not wait:
        return Backfill(asked=wish.number, phase="Listing")
    return await _followed(kube, target.ref, wish)


def _under_way(target: api.FoundTarget) -> BackfillWish | None:
    """What the target's annotation asks for, if an operator is at it or will be."""
    wish = _wish(target.backfill)
    said = target.backfilled
    over = wish is not None and said is not None and said.asked == wish.number and said.over
    return None if over else wish


async def _annotate(kube: Kube, ref: api.TargetRef, wish: str) -> None:
    try:
        await kube.patch(cluster.path_of(ref), {"metadata": {"annotations": {api.BACKFILL_ANNOTATION: wish}}})
    except ApiError as error:
        if error.status == 403:
            takes = f"the role edit in namespace {ref.namespace}" if ref.namespace else "an admin of the cluster"
            raise KubeError(f"you may not annotate {ref}: it takes {takes}") from None
        raise


async def _followed(kube: Kube, ref: api.TargetRef, wish: BackfillWish) -> Backfill:
    """Show how far it is, until it is over."""
    began = asyncio.get_running_loop().time()
    with _Shown() as shown:
        while True:
            body = await cluster.body_of(kube, ref)
            said = api.backfill_of(body.get("status"))
            waited_s = asyncio.get_running_loop().time() - began
            if said is not None and said.asked == wish.number:
                shown.now(said)
                if said.over:
                    return said
            elif _annotation(body) != wish.number:
                raise KubeError(f"someone asked {ref} for another backfill meanwhile, or took this one back")
            elif waited_s > TAKEN_UP_S:
                raise KubeError(
                    f"no operator has taken it up within {TAKEN_UP_S:.0f} s; it stands on {ref}, and one that is "
                    "started does it (see whether it runs, and watches this namespace)"
                )
            await asyncio.sleep(POLL_S)


def _annotation(body: Any) -> str:
    wish = _wish((body["metadata"].get("annotations") or {}).get(api.BACKFILL_ANNOTATION, ""))
    return "" if wish is None else wish.number


def _wish(text: str) -> BackfillWish | None:
    """What an annotation asks for; null if there is none, or it can't be read."""
    try:
        return api.backfill_wish(text)
    except (ValueError, msgspec.DecodeError):
        return None


class _Shown:
    """A bar on a terminal, a line now and then in a pipe, both on standard error: standard output has the result."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("looking up", total=None)
        self._line = ""
        self._line_at = float("-inf")

    def __enter__(self) -> "_Shown":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def now(self, said: Backfill) -> None:
        """It is so far."""
        ended = said.sent + said.already + said.failed
        if self._bar is not None:
            listing = said.phase == "Listing"
            words = "looking up" if listing else f"{said.sent} sent, {said.already} there already"
            self._bar.update(
                self._task, description=words, completed=ended, total=None if listing else said.chosen
            )  # fmt: skip
            return
        now = asyncio.get_running_loop().time()
        line = "looking up" if said.phase == "Listing" else f"{ended} of {said.chosen}"
        if line != self._line and now - self._line_at >= LINE_EVERY_S:
            self._line, self._line_at = line, now
            typer.echo(f"pipetrail: backfill: {line}", err=True)


def _show_done(done: Backfill, *, wait: bool) -> None:
    out = console()
    if done.phase == "Refused":
        out.print(f"Nothing was sent: {done.message}")
        return
    if not wait:
        out.print("The operator does it now; kubectl describe of the target shows how far it is.")
        return
    out.print(f"{done.sent} sent, {done.already} there already, {done.failed} failed")
    show_left({left.rule: left.runs for left in done.left})
    if done.message:
        out.print(done.message)
    if done.failed:
        out.print("Why they failed: kubectl get trun; pipetrail resend sends them again.")
