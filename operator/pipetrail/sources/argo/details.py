"""Small facts of a step, each from one place: when its container worked, its image, its use, where it was cached."""

from collections.abc import Iterable
from datetime import datetime

from pipetrail.record import Outcome, Resources
from pipetrail.sources.argo.body import EMPTY, Json, named, obj, objs, whole, word
from pipetrail.sources.argo.nodes import Node
from pipetrail.sources.argo.pods import ContainerFacts, PodFacts


def container_name(node: Node) -> str:
    """The container whose work the node stands for: of a containerSet each has a node of its own."""
    return node.place.elements[-1].task if node.type == "Container" and node.place.elements else "main"


def work(pod: PodFacts | None, name: str) -> tuple[datetime | None, datetime | None]:
    """When the user's container started and ended; without one of that name, all of the user's together."""
    if pod is None:
        return None, None
    one = pod.container(name)
    mine: Iterable[ContainerFacts] = (one,) if one is not None else [c for c in pod.containers if c.user]
    started = min((c.started for c in mine if c.started), default=None)
    return started, max((c.finished for c in mine if c.finished), default=None)


def resources(tries: Iterable[Node]) -> Resources | None:
    """Sums over attempts. Argo counts memory in units of 100 MiB × s (sources.md §1.12)."""
    cpu, memory, gpu, seen = 0, 0, 0, False
    for node in tries:
        for name, value in node.resources.items():
            amount = whole(value)
            if amount is None:
                continue
            seen = True
            cpu += amount if name == "cpu" else 0
            memory += amount * 100 if name == "memory" else 0
            gpu += amount if "gpu" in str(name) else 0
    return Resources(cpu_s=cpu, memory_mib_s=memory, gpu_s=gpu or None) if seen else None


def image(template: Json, container: str) -> str | None:
    """The image as the template names it, unless it is still to be filled in."""
    of_set = named(obj(template, "containerSet").get("containers")).get(container, EMPTY)
    for part in (obj(template, "container"), obj(template, "script"), of_set):
        name = word(part.get("image"))
        if name and "{{" not in name:
            return name
    return None


def cached_from(node: Node, outcome: Outcome, outputs: Json) -> str | None:
    """The run or node whose outputs these are, where something tells: the message, or the default key of its log."""
    if outcome.status != "cached":
        return None
    said = node.message or ""
    if said.startswith("original pod:"):
        return said.partition(":")[2].strip() or None
    for artifact in objs(outputs.get("artifacts")):
        run, _, rest = word(obj(artifact, "s3").get("key")).partition("/")
        if run and rest.startswith(run):
            return run
    return None
