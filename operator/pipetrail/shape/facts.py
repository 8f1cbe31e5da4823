"""Params and tags of tracker runs (mapping.md §3)."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.api import GROUP, TAGS_ANNOTATION, Capture
from pipetrail.record import Outputs, Record, Step
from pipetrail.settings import Places
from pipetrail.shape import names
from pipetrail.shape.changes import Changes
from pipetrail.shape.layout import Child, Place, prefixes
from pipetrail.shape.note import run_url

_RESERVED: Final = ("pipetrail.", "mlflow.")
_CONTROL: Final = f"{GROUP}/"
_IDLE: Final = frozenset({"pending", "skipped", "omitted", "not_run"})
_COMMIT_KEYS: Final = frozenset({"commit", "git-commit", "git-sha", "commit-sha", "mlflow.source.git.commit"})
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}", re.IGNORECASE)
_MLFLOW_RUN: Final = re.compile(
    r"https?://[^\s\"'<>]{1,300}/#/experiments/\d{1,20}/runs/[0-9a-f]{32}|\bMLFLOW_RUN_ID=([0-9a-f]{32})\b"
)
MAX_DIGESTS: Final = 20


def commit(record: Record) -> str | None:
    """The git commit that the run names: of a git artifact, or of an annotation or label (``…/git-commit``)."""
    for link in record.links:
        revision = link.href.rpartition("@")[2]
        if link.rel == "git" and _COMMIT.fullmatch(revision):
            return revision
    for key, value in sorted({**record.tags, **record.annotations}.items()):
        if key.rpartition("/")[2].lower() in _COMMIT_KEYS and _COMMIT.fullmatch(value.strip()):
            return value.strip()
    return None


def source_name(record: Record) -> str:
    """The template that the run was made from, else the pipeline."""
    group = record.group
    return group.name if group is not None and group.kind in ("template", "cluster-template") else record.pipeline


def in_texts(record: Record) -> Record:
    """`record` with its params and outputs as trackers take them, as texts; KFP gives them types."""
    if not record.source.startswith("kfp"):
        return record
    steps = tuple(replace(s, params=_texts(s.params), outputs=_outputs(s.outputs)) for s in record.steps)
    return replace(record, params=_texts(record.params), outputs=_outputs(record.outputs), steps=steps)


def _outputs(outputs: Outputs) -> Outputs:
    return replace(outputs, parameters=_texts(outputs.parameters))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: names.text(value) for name, value in values.items()}


class Known:
    """Which values an input may have without saying anything new; made once per record."""

    def __init__(self, record: Record) -> None:
        self._shared = frozenset(record.params.values())
        self._since: dict[str, datetime] = {}
        self._around: dict[str, set[str]] = {}
        for step in record.steps:
            if step.kind == "composite":
                self._around.setdefault(step.path, set()).update(step.params.values())
            if step.finished is not None:
                for value in (*step.outputs.parameters.values(), step.outputs.result):
                    if value is not None:
                        self._since[value] = min(step.finished, self._since.get(value, step.finished))

    def telling(self, step: Step) -> Mapping[str, str]:
        """Inputs whose value is no run param's, no input of the step around, no output of a step before.

        *Before* means ended when this one began, so that what was sent while the run was live still holds at its end.
        """
        if step.outcome.status in _IDLE:
            return {}
        around = [self._around.get(path, ()) for path in prefixes(step.path)[:-1]]

        def known(value: str) -> bool:
            since = self._since.get(value)
            before = since is not None and step.started is not None and since <= step.started
            return before or value in self._shared or any(value in values for values in around)

        return {name: value for name, value in step.params.items() if not known(value)}


def parent_params(
    record: Record, known: Known, places: Sequence[Place], capture: Capture, changes: Changes
) -> dict[str, str]:
    """Run params, then the inputs of steps that say something new: ``<step>.<param>``."""
    if capture.params == "None":
        return {}
    params = dict(record.params)
    for place in places:
        for name, value in known.telling(place.step).items():
            if place.turn is not None and value in names.item_texts(place.turn.iteration):
                continue  # the label in its name says it
            _put(params, names.joined(place.prefix, name, by="."), value, changes)
    return params


def child_params(
    record: Record, known: Known, child: Child, places: Sequence[Place], capture: Capture, changes: Changes
) -> dict[str, str]:
    """A child's own inputs under bare names and all params of the run; an input hides a run param of its name."""
    if capture.params == "None":
        return {}
    own: dict[str, str] = {}
    for place in places:
        if not place.prefix:
            own.update(place.step.params)
    params = {**record.params, **own}
    for name, value in record.params.items():
        if own.get(name, value) != value:
            _put(params, f"run.{name}", value, changes, run=child.name)
            changes.say("param", name, "InputHidesParam", f"the run's value is sent as run.{name}", run=child.name)
    seen = set(own.values())
    for place in places:
        if place.prefix:
            telling = {n: v for n, v in known.telling(place.step).items() if v not in seen}
            for name, value in telling.items():
                _put(params, f"{place.prefix}.{name}", value, changes, run=child.name)
    return params


def _put(params: dict[str, str], name: str, value: str, changes: Changes, *, run: str = "") -> None:
    if params.get(name, value) != value:
        changes.say("param", name, "KeyTaken", f"sent as input.{name}", run=run)
        name = f"input.{name}"
    params[name] = value


def output_tags(place: Place, outputs: Mapping[str, str], capture: Capture) -> dict[str, str]:
    """Outputs that are no metrics, models by their address, and where a cached step comes from."""
    step, prefix = place.step, place.prefix
    tags = {names.joined("output", prefix, name, by="."): value for name, value in outputs.items()}
    if capture.artifacts == "Reference":
        for artifact in step.artifacts:
            if artifact.uri and artifact.present is not False and _is_model(artifact.name, artifact.type):
                tags[names.joined("model", prefix, artifact.name, by=".")] = artifact.uri
    if step.outcome.status == "cached":
        tags[names.joined("cached", prefix or step.name, by=".")] = step.cached_from or "unknown"
    return tags


def _is_model(name: str, kind: str | None) -> bool:
    if kind:
        return kind.rpartition(".")[2] == "Model"
    words = re.split(r"[-_. ]", name.lower())
    return "model" in words and "card" not in words and "config" not in words


def user_tags(record: Record, changes: Changes) -> dict[str, str]:
    """The run's labels, and the tags that its author asks for; names that we or MLflow give a meaning are refused."""
    wanted = dict(record.tags)
    if text := record.annotations.get(TAGS_ANNOTATION):
        asked = _json_object(text)
        if asked is None:
            changes.say("tag", TAGS_ANNOTATION, "NotAJsonObject", 'write it like {"owner": "alice"}')
        for key, value in (asked or {}).items():
            wanted[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    tags = {}
    for key, value in wanted.items():
        if key.startswith(_CONTROL):
            continue
        if key.startswith(_RESERVED):
            changes.say("tag", key, "ReservedName", "tags of this name are written by pipetrail alone")
            continue
        tags[key] = value
    return tags


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def run_tags(record: Record, places: Places, steps: Sequence[Step], supersedes: str) -> dict[str, str]:
    """The tags of mapping.md §3 that every tracker run of the tree has; `steps` are those that it shows."""
    group = record.group
    digests = list(dict.fromkeys(s.digest for s in steps if s.digest))
    resubmitted = next((x for x in record.lineage if x.rel == "resubmitted-from"), None)
    tags = {
        "pipetrail.run": record.name,
        "pipetrail.pipeline": record.pipeline,
        "pipetrail.source": record.source,
        "pipetrail.namespace": record.namespace,
        "pipetrail.cluster": record.key.cluster,
        "pipetrail.uid": record.key.uid,
        "pipetrail.source-url": run_url(record, places),
        "pipetrail.cron": group.name if group is not None and group.kind == "cron" else None,
        "pipetrail.template": group.name if group is not None and group.kind.endswith("template") else None,
        "pipetrail.trigger": record.trigger,
        "pipetrail.resubmitted-from": None if resubmitted is None else resubmitted.name,
        "pipetrail.image-digest": ", ".join(digests[:MAX_DIGESTS]),
        "pipetrail.supersedes": supersedes,
    }
    for link in record.links:
        name = f"pipetrail.link.{link.rel}"
        tags[name] = ", ".join(x for x in (tags.get(name), link.href) if x)
    for step in steps:
        if step.log_tail and (found := _MLFLOW_RUN.search(step.log_tail)):
            tags.setdefault("pipetrail.link.mlflow-run", found[1] or found[0])
    return {key: value for key, value in tags.items() if value}
