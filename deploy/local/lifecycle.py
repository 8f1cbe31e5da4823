"""Up, down, restart: brings the machine to the state that was asked for, whatever state it is in."""

import dataclasses
import os
import time
from pathlib import Path

from . import argo, builds, control_plane, node, pki, ports, recipes, teardown
from .control_plane import Cluster
from .layout import Layout
from .locking import locked
from .processes import Part, complaint, reconcile, start, stop, wait_ready
from .progress import Progress
from .record import Ledger, Process, Record, Tier
from .trouble import Trouble


def recipes_of(tier: Tier) -> tuple[recipes.Recipe, ...]:
    """What a tier is made of."""
    return recipes.NODE_TIER if tier == "node" else recipes.API_TIER


def parts_of(cluster: Cluster) -> list[Part]:
    """All parts of a cluster, in the order of their start."""
    return [*control_plane.base_parts(cluster), *(node.parts(cluster) if cluster.tier == "node" else ())]


def lock_of(layout: Layout) -> Path:
    """The lock that every change of a cluster is made under."""
    return layout.locks / f"{layout.name}.lock"


def up(layout: Layout, asked: Tier, progress: Progress) -> Cluster:
    """Bring up a tier, or find it healthy and say so. A running node tier serves whoever asks for `api`."""
    ledger = Ledger(layout.record)
    tier = _tier(ledger.read(), asked)
    if tier == "node":
        node.check_machine()
    tools = builds.ensure(layout, recipes_of(tier), progress)
    with locked(lock_of(layout), progress):
        record = ledger.read()
        if _tier(record, asked) != tier:
            # Somebody brought up the node tier while this call waited.
            tier = "node"
            tools = builds.ensure(layout, recipes_of(tier), progress)
        if record is not None and record.things:
            wrong = complaints(_cluster(layout, record.tier, tools, record), record)
            cluster = _cluster(layout, tier, tools, record)
            if not wrong and _is_current(cluster, record):
                progress.say(f"{layout.name} is up already: {tier} tier, {len(parts_of(cluster))} parts, all healthy")
                return cluster
            if wrong:
                told = ", ".join(f"{part} ({what})" for part, what in wrong.items())
                progress.say(f"half-dead: {told}; taking it down by its record and starting afresh, its data stays")
                teardown.take_down(ledger, progress)
        cluster = _cluster(layout, tier, tools, ledger.read())
        _bring_up(cluster, ledger, progress)
    return cluster


def down(layout: Layout, progress: Progress) -> None:
    """Take down all that is recorded and remove the cluster's data. Binaries and images stay."""
    with locked(lock_of(layout), progress):
        ledger = Ledger(layout.record)
        record = ledger.read()
        if record is None and not layout.cluster.exists():
            progress.say(f"nothing to take down: there is no cluster {layout.name} in {layout.state}")
            return
        if record is not None and record.tier == "node" and os.geteuid() != 0:
            raise Trouble("this is a node tier: taking it down needs root, run it with sudo and the same --state")
        teardown.take_down(ledger, progress)
        teardown.remove_data(layout.cluster)
        progress.say(f"{layout.name} is down, its data is removed; binaries and images stay in {layout.state}")


def opened(layout: Layout) -> tuple[Cluster, Record]:
    """A cluster that was brought up before, as its record has it. Nothing is built or started."""
    record = Ledger(layout.record).now()
    tools = builds.all_finished(layout, recipes_of(record.tier))
    if tools is None:
        raise Trouble(
            "the binaries that this recipe starts are not all there: run `cluster.py up` again, "
            "with KUBEBUILDER_ASSETS set if it was set before"
        )
    return _cluster(layout, record.tier, tools, record), record


def restart(layout: Layout, name: str, *, kill: bool, down_for_s: float, progress: Progress) -> None:
    """Stop one part and start it again where it was; all others stay as they are."""
    with locked(lock_of(layout), progress):
        cluster, record = opened(layout)
        parts = {part.name: part for part in parts_of(cluster)}
        if name not in parts:
            raise Trouble(f"there is no part {name!r} in this cluster: it has {', '.join(parts)}")
        ledger = Ledger(layout.record)
        if (recorded := record.process(name)) is not None:
            stop(recorded, ledger, gently_s=0 if kill else 30)
        time.sleep(down_for_s)
        start(parts[name], layout, ledger)
        wait_ready([parts[name]], ledger, progress, expected_s=8)


def complaints(cluster: Cluster, record: Record) -> dict[str, str]:
    """What is wrong with the parts that were started; a part that never was is not wrong, only missing."""
    found = {}
    for part in parts_of(cluster):
        recorded = record.process(part.name)
        wrong = complaint(part, recorded) if recorded is not None else None
        if wrong is not None:
            found[part.name] = wrong
    if cluster.tier == "node" and not found and _is_current(cluster, record):
        wrong = node.network_complaint()
        if wrong is not None:
            found["network"] = wrong
    return found


def _tier(record: Record | None, asked: Tier) -> Tier:
    return "node" if record is not None and record.tier == "node" and record.things else asked


def _cluster(layout: Layout, tier: Tier, tools: builds.Tools, record: Record | None) -> Cluster:
    names = (*control_plane.API_PORTS, *(control_plane.NODE_PORTS if tier == "node" else ()))
    chosen = ports.choose(names, record.ports if record else {})
    return Cluster(layout, tier, tools, chosen, pki.ensure_secrets(layout))


def _is_current(cluster: Cluster, record: Record) -> bool:
    recorded = [(part, record.process(part.name)) for part in parts_of(cluster)]
    same = all(process is not None and process.spec == part.spec for part, process in recorded)
    return same and argo.is_installed(cluster, record)


def _bring_up(cluster: Cluster, ledger: Ledger, progress: Progress) -> None:
    layout = cluster.layout
    progress.say(f"starting {layout.name} ({cluster.tier} tier) in {layout.cluster}")
    pki.ensure_certificates(layout)
    pki.write_kubeconfigs(layout, cluster.secrets, cluster.server)
    record = ledger.read() or Record(tier=cluster.tier)
    record = ledger.write(dataclasses.replace(record, tier=cluster.tier, ports=cluster.ports))
    if cluster.tier == "node":
        node.check_vacant(ledger)
    _check_ports(cluster, record)
    _link_commands(cluster)
    if cluster.tier == "node":
        node.prepare(cluster, ledger, progress)
    reconcile(control_plane.base_parts(cluster), layout, ledger, progress, expected_s=8)
    argo.install(cluster, ledger, progress)
    if cluster.tier == "node":
        node.bring_up(cluster, ledger, progress)


def _check_ports(cluster: Cluster, record: Record) -> None:
    """Only for parts that do not run yet: the others hold their own ports."""
    running = {thing.name for thing in record.things if isinstance(thing, Process)}
    wanted = {name: port for name, port in cluster.ports.items() if name.removesuffix("-peer") not in running}
    if cluster.tier == "node" and "workflow-controller" not in running:
        wanted["workflow-controller"] = argo.HEALTH_PORT
    wanted = {name: port for name, port in wanted.items() if name.removesuffix("-health") not in running}
    ports.check_free(wanted)


def _link_commands(cluster: Cluster) -> None:
    """Links for a PATH; replaced, because the binaries' folder changes with their version."""
    folder = cluster.layout.commands
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("kubectl", "argo"):
        if name in cluster.tools:
            link = folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(cluster.tools[name].path)
