"""Which runs a backfill would take, judged here as the operator judges them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pipetrail import api, policy
from pipetrail.api import BackfillWish
from pipetrail.cli import cluster
from pipetrail.cli.console import console
from pipetrail.kube import ARGO, TRACKED_RUNS, Kube, KubeError, collections
from pipetrail.readers import argo as objects
from pipetrail.sources import argo


async def meant(kube: Kube, namespace: str | None, name: str) -> api.FoundTarget:
    """The target of that name: the namespace's own, else the cluster's."""
    found = [t for t in await cluster.targets(kube, namespace) if t.ref.name == name]
    own = [t for t in found if t.ref.namespace and namespace is not None]
    chosen = next(iter(own or [t for t in found if not t.ref.namespace]), None)
    if chosen is None:
        where = f"namespace {namespace} sees" if namespace else "there is"
        kind = "target" if namespace else "ClusterTrackingTarget"
        raise KubeError(f"{where} no {kind} {name}; pipetrail status lists targets")
    if isinstance(chosen, api.InvalidTarget):
        raise KubeError(f"{chosen.ref} can't be used: {chosen.message}")
    return chosen


async def judged(kube: Kube, namespace: str | None, name: str, wish: BackfillWish) -> list[dict[str, Any]]:
    """Each run that is asked for, and by which rule the target takes it or leaves it; the newest first."""
    target = await meant(kube, namespace, name)
    seen = [t for t in await cluster.targets(kube, namespace) if isinstance(t, api.FoundTarget)]
    there = await _tracked(kube, namespace, target.ref)
    spaces, templates = dict[str, Any](), dict[tuple[str, str, str, str], Any]()
    rows = []
    query: dict[str, Any] = {"labelSelector": wish.selector} if wish.selector else {}
    (path,) = collections(ARGO, "workflows", () if namespace is None else (namespace,))
    async for page in kube.pages(path, **query):
        for item in page["items"]:
            header = argo.header(item)
            if not policy.wanted(header, wish):
                continue
            if header.namespace not in spaces:
                spaces[header.namespace] = (await kube.get(f"/api/v1/namespaces/{header.namespace}")).get("metadata")
            made_from = (header.namespace, header.workflow_template, header.cluster_workflow_template, header.cron)
            if made_from not in templates:
                templates[made_from] = await objects.made_from(kube, header)
            facts = policy.facts(header, spaces[header.namespace] or {}, templates[made_from])
            decision = policy.decide(facts, target, others=[t for t in seen if t.ref != target.ref], earlier=True)
            phase = there.get((header.namespace, header.uid), "")
            rule, why = (phase, "it has a TrackedRun") if phase else (str(decision.rule), decision.why)
            rows.append(
                {
                    "run": f"{header.namespace}/{header.name}", "pipeline": header.pipeline,
                    "ended": str(header.finished), "takes": isinstance(decision, policy.Taken) or bool(phase),
                    "rule": rule, "why": why,
                }
            )  # fmt: skip
    return sorted(rows, key=lambda row: row["ended"], reverse=True)


async def _tracked(kube: Kube, namespace: str | None, ref: api.TargetRef) -> dict[tuple[str, str], str]:
    """By namespace and uid of the run: the phase of its TrackedRun for the target."""
    found = {}
    (path,) = collections(TRACKED_RUNS, "trackedruns", () if namespace is None else (namespace,))
    async for page in kube.pages(path):
        for item in page["items"]:
            spec, phase = item.get("spec") or {}, (item.get("status") or {}).get("phase", "Pending")
            target = spec.get("target") or {}
            if (target.get("kind"), target.get("namespace", ""), target.get("name")) == (
                ref.kind, ref.namespace, ref.name,
            ):  # fmt: skip
                found[item["metadata"]["namespace"], (spec.get("run") or {}).get("uid", "")] = phase
    return found


def show_judged(rows: list[dict[str, Any]]) -> None:
    """What a backfill would do, for people."""
    out = console()
    takes = [row for row in rows if row["takes"] and row["rule"] in ("Selected", "OptOutForbidden")]
    known = sum(row["takes"] for row in rows) - len(takes)
    out.print(f"{len(takes)} would be sent, {known} are tracked already; nothing was asked for")
    show_left(Counter(row["rule"] for row in rows if not row["takes"]))
    if not takes:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("RUN", "PIPELINE", "ENDED"):
        table.add_column(name, overflow="fold")
    for row in takes[:20]:
        table.add_row(row["run"], row["pipeline"], row["ended"])
    out.print(table)
    if len(takes) > 20:
        out.print(f"and {len(takes) - 20} older ones (-o json shows all)")


def show_left(left: Mapping[str, int]) -> None:
    """How many runs were left out, by the rule."""
    if not left:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("LEFT OUT", "RUNS"):
        table.add_column(name, overflow="fold")
    for rule, runs in sorted(left.items()):
        table.add_row(rule, str(runs))
    console().print(table)
