"""What things are called in a tracker (mapping.md §1): experiment, run, turns of loops, metrics; children's keys."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pipetrail.api import EXPERIMENT_ANNOTATION, RUN_NAME_ANNOTATION, Naming
from pipetrail.record import LoopItem, Record

TITLE_ANNOTATION: Final = "workflows.argoproj.io/title"
DEFAULT_METRIC: Final = "{step}/{metric}"
MAX_NAME: Final = 250
MAX_ITEM: Final = 40
_REDACTED: Final = "<redacted>"  # what redact.py leaves of a secret

Iteration = tuple[LoopItem, ...]


def experiment(record: Record, naming: Naming, *, cluster_target: bool) -> str:
    """The annotation, else the target's template; without one a ClusterTrackingTarget keeps namespaces apart.

    Of a ClusterTrackingTarget the annotation names an experiment of the run's own namespace: others share the tracker.
    """
    if named := _line(record.annotations.get(EXPERIMENT_ANNOTATION, "")):
        own = f"{record.namespace}/"
        return named if not cluster_target or named.startswith(own) else f"{own}{named}"[:MAX_NAME]
    template = naming.experiment if isinstance(naming.experiment, str) else ""
    template = template or ("{namespace}/{pipeline}" if cluster_target else "{pipeline}")
    return _fill(template, {"pipeline": record.pipeline, "namespace": record.namespace})


def run(record: Record, naming: Naming, *, attempt: int = 1) -> str:
    """The annotation, else the template with {run}; the tracker runs of retries are told apart by their number."""
    name = _line(record.annotations.get(RUN_NAME_ANNOTATION, "")) or _fill(
        naming.run, {"run": _run(record), "pipeline": record.pipeline, "namespace": record.namespace}
    )
    return f"{name} (retry {attempt})" if attempt > 1 else name


def _run(record: Record) -> str:
    if record.source.startswith("kfp") and record.display_name:
        return _line(record.display_name)
    cron = record.group.name if record.group is not None and record.group.kind == "cron" else None
    title = _line(record.annotations.get(TITLE_ANNOTATION) or record.display_name or "")
    if cron is not None and record.scheduled is not None:
        return f"{title or cron} {_minute(record.scheduled)}"
    if title and title != record.name:
        prefix = f"{record.pipeline}-"
        suffix = record.name.removeprefix(prefix) if record.name.startswith(prefix) else record.name.rpartition("-")[2]
        return f"{title} · {suffix}"
    return record.name


def _minute(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _line(text: str) -> str:
    """The first line that says something, without what could break a table or a page."""
    lines = ("".join(c for c in line if c.isprintable()).strip() for line in text.splitlines())
    return next((line for line in lines if line), "")[:MAX_NAME]


def _fill(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def metric(template: str, step: str, key: str) -> str:
    """`key` of `step` in the tracker. With an empty step the separator goes too: ``acc``, never ``/acc``."""
    return _fill(template if step else _without_step(template), {"step": step, "metric": key})


@functools.lru_cache(maxsize=64)
def _without_step(template: str) -> str:
    return re.sub(r"[^{}\w]*\{step\}", "", re.sub(r"\{step\}[^{}\w]+", "", template))


def joined(*parts: str, by: str) -> str:
    """The parts that are not empty."""
    return by.join(p for p in parts if p)


def root_key(run: str, attempt: int) -> str:
    """The key of the tree's parent, by the key of its `run`; the tracker runs of a retried run are numbered."""
    return run if attempt <= 1 else f"{run}#{attempt}"


def child_key(root: str, path: str, iteration: Iteration | None) -> str:
    """A child is its parent's key and what tells it apart: path and loop items (design §7.1)."""
    turns = None if iteration is None else [{"index": t.index, "item": t.item} for t in iteration]
    text = json.dumps([path, turns], sort_keys=True, separators=(",", ":"))
    return f"{root}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def turn(item: LoopItem, params: Sequence[Mapping[str, str]], shared: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """How one turn of a loop is told apart: pairs of name and value, the name empty where nothing tells it.

    `params` are the step's inputs and, after them, those of the steps around it; `shared` are the run's, which are
    the same in every turn. An item that is too long or hidden is told by its index.
    """
    pairs: tuple[tuple[str, str], ...]
    match item.item:
        case Mapping() as entries if entries and all(
            not isinstance(v, Mapping | list | tuple) for v in entries.values()
        ):
            pairs = tuple((str(k), text(v)) for k, v in entries.items())
        case value:
            pairs = ((_input(text(value), params, shared), text(value)),)
    told = " ".join(joined(name, value, by="=") for name, value in pairs)
    if len(told) > MAX_ITEM or _REDACTED in told or not told.isprintable() or not all(v.strip() for _, v in pairs):
        return (("", str(item.index)),)
    return pairs


def _input(value: str, params: Sequence[Mapping[str, str]], shared: Mapping[str, str]) -> str:
    for inputs in params:
        for name, given in inputs.items():
            if given == value and shared.get(name) != value:
                return name
    return ""


def item_texts(iteration: Iteration) -> frozenset[str]:
    """The items of a turn as inputs get them, whole and entry by entry."""
    entries = [v for turn in iteration if isinstance(turn.item, Mapping) for v in turn.item.values()]
    return frozenset(map(text, [*(turn.item for turn in iteration), *entries]))


def text(value: Any) -> str:
    """A loop's item as Argo hands it to an input."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
