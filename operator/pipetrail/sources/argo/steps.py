"""Nodes to steps: a retried step is one step with several attempts, each turn of a loop is a step of its own.

What a step gave counts once its node is fulfilled, or *early*, when its complete task result and its succeeded pod say
so before Argo's controller does (design §5). Values come from the last attempt only: while an attempt has failed and
another may follow, there are none.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Attempt, Outcome, Outputs, Partial, Point, Step
from pipetrail.sources import FileRef, LogRef
from pipetrail.sources.argo import outputs as given
from pipetrail.sources.argo.body import EMPTY, Json
from pipetrail.sources.argo.details import cached_from, container_name, image, resources, work
from pipetrail.sources.argo.names import Place
from pipetrail.sources.argo.nodes import COMPOSITE, STRUCTURE, Node, Nodes
from pipetrail.sources.argo.outcome import Fate, attempt, of_pod
from pipetrail.sources.argo.pods import PodFacts, ResultFacts, RunFacts
from pipetrail.sources.argo.templates import Templates, parameters

CLOCK_SLACK: Final = timedelta(seconds=2)
"""A node's start is the controller's clock, a pod's creation the API server's. No pod lives shorter than this."""

Built = tuple[Step, tuple[given.Found, ...], LogRef | None, datetime | None, str]


class Builder:
    """Makes the steps of one run."""

    def __init__(
        self, nodes: Nodes, facts: RunFacts, templates: Templates, *, uid: str, namespace: str, repository: Json,
        fate: Fate, generation: datetime | None,
    ) -> None:  # fmt: skip
        self._nodes = nodes
        self._templates = templates
        self._uid = uid
        self._namespace = namespace
        self._repository = repository
        self._fate = fate
        self._generation = generation
        self._results: Mapping[str, ResultFacts] = facts.results
        self._pods: dict[str, list[PodFacts]] = defaultdict(list)
        for pod in facts.pods.values():
            if pod.owner_uid == uid:
                self._pods[pod.node_id].append(pod)
        self._retries = {(n.place.key, n.place.attempts[:-1]): n for n in nodes.by_id.values() if n.wraps}
        self.partial: list[Partial] = []
        self.files: list[FileRef] = []
        self.logs: list[LogRef] = []

    def steps(self) -> tuple[Step, ...]:
        """All steps, by their start; fills `files`, `logs` and `partial`."""
        groups: dict[object, list[Node]] = defaultdict(list)
        for node in self._nodes.by_id.values():
            if node.type not in STRUCTURE and not (node.type in COMPOSITE and not node.place.elements):
                groups[node.place.key].append(node)
        built = [b for nodes in groups.values() if (b := self._step(nodes)) is not None]
        built.sort(key=_order)
        steps = self._without_copies([b[0] for b in built])
        for index, (step, artifacts, log, at, key) in enumerate(built):
            refs = (given.file_ref(found, index, at, key) for found in artifacts)
            self.files += [ref for ref in refs if ref is not None]
            if log is not None:
                self.logs.append(replace(log, step=index))
            if step.kind != "composite" and artifacts and at is None:
                self.partial.append(Partial(reason="NoTime", message="its end is not known", step=step.path))
        return steps

    def _step(self, nodes: list[Node]) -> Built | None:
        tries = sorted((n for n in nodes if not n.wraps), key=lambda n: n.place.attempts)
        retry = max((n for n in nodes if n.wraps), key=lambda n: n.place.attempts, default=None)
        if not tries:
            # A Retry whose attempts are gone or not made yet; around the entrypoint's DAG it is structure only.
            if retry is None or not retry.place.elements:
                return None
            tries = [retry]
        last = tries[-1]
        kind = self._templates.kind(last)
        pod = self._pod(last)
        template = self._templates.of(last)
        daemon = template.get("daemon") is True
        outcome = self._outcome(last, pod, daemon=daemon)
        early = not daemon and self._early(last, pod)
        told = early or (last.fulfilled and (last.phase == "Succeeded" or not self._may_follow(last)))
        told = told or (not last.phase and self._result(last, pod) is not None)
        outputs = self._outputs(last, pod) if told else EMPTY
        at = (last.finished or (pod.finished if pod else None) or last.started) if told or outcome.settled else None
        made = given.references(outputs, template, self._namespace)
        values = given.values(outputs, without=[a.name for a in made])
        composite, leaf_pod = kind == "composite", last.type == "Pod"
        ran = leaf_pod and last.fulfilled and outcome.status in ("succeeded", "failed", "error") and told
        whole_now = ran and not daemon
        artifacts = () if composite else given.artifacts(outputs, template, self._repository, complete=whole_now)
        path = last.place.path
        if whole_now and outcome.status == "succeeded" and (names := given.missing(outputs, template)):
            said = f"the step succeeded, but Argo has no value of its output {', '.join(names[:5])}"
            self.partial.append(Partial(reason="OutputMissing", message=said, step=path))
        if made:
            said = f"output {', '.join(a.name for a in made)} names what the step made; it is listed with its artifacts"
            self.partial.append(Partial(reason="ObjectReference", message=said, step=path))
        attempts = () if composite else self._attempts(tries)
        started, finished = self._times(tries, last, pod, outcome, settled=outcome.settled)
        key = f"{last.id}/{pod.uid if pod else last.finished or ''}"
        container = container_name(last)
        step = Step(
            path=path,
            name=last.place.elements[-1].name if path else self._templates.name(last) or last.name,
            outcome=outcome,
            iteration=self._templates.iteration(last),
            role=last.place.role,
            kind=kind,
            template=self._templates.name(last),
            started=started,
            finished=finished,
            params=parameters(last.inputs),
            attempts=attempts,
            outputs=values,
            points=given.points(values, at) if told else (),
            artifacts=(*(f.artifact for f in artifacts), *made),
            image=(pod.image if pod and leaf_pod else "") or image(template, container) or None,
            digest=(pod.digest if pod and leaf_pod else "") or None,
            resources=resources(tries),
            cached_from=cached_from(last, outcome, outputs),
        )
        ended = told or outcome.settled
        log = self._log(last, pod, outcome, outputs, template, container, at, key) if ended and not daemon else None
        return step, artifacts, log, at, key

    def _outcome(self, last: Node, pod: PodFacts | None, *, daemon: bool) -> Outcome:
        outcome = attempt(last, pod, self._fate, daemon=daemon)
        if not outcome.settled or outcome.status == "succeeded" or not last.place.is_try:
            return outcome
        # Another attempt may follow, whatever this one did.
        return replace(outcome, status="running") if self._retrying(last.place) else outcome

    def _retrying(self, tried: Place) -> bool:
        """True if what stands at this place is an attempt, and its retries are not spent."""
        if self._fate.ended or self._fate.deleted:
            return False
        retry = self._retries.get((tried.key, tried.attempts[:-1]))
        return tried.is_try and (not retry.fulfilled if retry is not None else not self._nodes.whole)

    def _may_follow(self, node: Node) -> bool:
        """True if `node`, or a template around it, may be tried again."""
        place = node.place
        around = (Place(elements=place.elements[:n], attempt=place.attempt) for n in range(len(place.elements) + 1))
        return any(self._retrying(tried) for tried in around)

    def _early(self, node: Node, pod: PodFacts | None) -> bool:
        """True if the step has surely succeeded and its result says all that its node will say."""
        if node.fulfilled or node.type != "Pod" or pod is None or pod.phase != "Succeeded":
            return False
        generation = self._generation
        made_now = generation is None or pod.created is None or pod.created >= generation - CLOCK_SLACK
        return made_now and self._result(node, pod) is not None

    def _result(self, node: Node, pod: PodFacts | None) -> ResultFacts | None:
        """The complete task result of this very pod."""
        found = self._results.get(node.id)
        if found is None or not found.complete or found.owner_uid != self._uid or pod is None or not pod.ended:
            return None
        made_by_it = found.created is None or pod.created is None or found.created >= pod.created
        return found if made_by_it else None

    def _outputs(self, node: Node, pod: PodFacts | None) -> Json:
        """The node's, or the result's where the node has none yet (killed nodes get theirs late: surprise 9)."""
        if any(k in node.outputs for k in ("parameters", "artifacts", "result")):
            return node.outputs
        found = self._result(node, pod)
        return found.outputs if found is not None else node.outputs

    def _pod(self, node: Node) -> PodFacts | None:
        """The pod of `node`: the last one made since the node was. A retried run makes both anew under old names."""
        if node.type == "Container":
            owner = self._nodes.by_id.get(node.boundary)
            return self._pod(owner) if owner is not None and owner.type == "Pod" else None
        found = [
            p
            for p in self._pods.get(node.id, ())
            if node.started is None or p.created is None or p.created >= node.started - CLOCK_SLACK
        ]
        return max(found, key=lambda p: (p.created is not None, p.created, p.uid), default=None) if found else None

    def _attempts(self, tries: Iterable[Node]) -> tuple[Attempt, ...]:
        found = []
        for node in tries:
            pod = self._pod(node)
            if node.type != "Pod" or node.cached or not (pod or node.fulfilled or node.phase == "Running"):
                continue
            started, finished = work(pod, "main")
            waited = (started - node.started).total_seconds() if started and node.started else None
            daemon = self._templates.of(node).get("daemon") is True
            alone = not node.phase and pod is not None and pod.ended
            found.append(
                Attempt(
                    outcome=of_pod(node, pod) if alone and pod else attempt(node, pod, self._fate, daemon=daemon),
                    pod=pod.name if pod else None,
                    pod_uid=pod.uid if pod else None,
                    started=started,
                    finished=finished,
                    queue_s=waited if waited is not None and waited >= 0 else None,
                )
            )
        return tuple(found)

    def _times(
        self, tries: list[Node], last: Node, pod: PodFacts | None, outcome: Outcome, *, settled: bool
    ) -> tuple[datetime | None, datetime | None]:
        """From the first attempt's start to the last one's end: the user's container, else the node (surprise 4)."""
        if outcome.status in ("skipped", "omitted"):
            return last.started, last.finished
        name = container_name(last)
        started, _ = work(self._pod(tries[0]), name)
        _, finished = work(pod, name)
        killed = outcome.reason in ("Stopped", "Terminated", "DeadlineExceeded", "Daemon")
        if finished is None or (killed and last.finished is not None and finished > last.finished):
            finished = last.finished
        return started or tries[0].started, finished if settled else None

    def _log(
        self, node: Node, pod: PodFacts | None, outcome: Outcome, outputs: Json, template: Json, container: str,
        at: datetime | None, key: str,
    ) -> LogRef | None:  # fmt: skip
        """The log of the user's container; other kinds of steps print nothing of the user's."""
        if node.type not in ("Pod", "Container") or outcome.status in ("skipped", "omitted", "cached", "pending"):
            return None
        if any(k in template for k in ("resource", "data")):
            return None
        if "containerSet" in template and node.type == "Pod" and pod is not None and pod.main is None:
            return None
        owner = self._nodes.by_id.get(node.boundary) if node.type == "Container" else None
        archived = given.archived_log(owner.outputs if owner else outputs, container, self._repository)
        begun = pod is not None and work(pod, container)[0] is not None
        if not begun and archived is None:
            return None
        failed = outcome.settled and outcome.status not in ("succeeded", "cached")
        return LogRef(
            step=0, pod=pod.name if pod else None, pod_uid=pod.uid if pod else None, container=container,
            archived=archived, failed=failed, at=at, key=key,
        )  # fmt: skip

    def _without_copies(self, steps: list[Step]) -> tuple[Step, ...]:
        """A Steps or DAG template hands on values of its steps: those are points already (sources.md §1.1)."""
        inside: dict[tuple[str, tuple[int, ...]], set[str]] = defaultdict(set)
        for step in steps:
            if step.kind != "composite":
                values = {*step.outputs.parameters.values(), step.outputs.result or ""}
                for above in _above(step):
                    inside[above] |= values
        return tuple(
            replace(step, points=_new(step, inside[_self(step)])) if step.kind == "composite" and step.points else step
            for step in steps
        )


def _self(step: Step) -> tuple[str, tuple[int, ...]]:
    return step.path, tuple(i.index for i in step.iteration or ())


def _above(step: Step) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Every step that `step` may lie in. Which loops are whose is not told apart: all prefixes are tried."""
    parts = step.path.split("/")
    turns = tuple(i.index for i in step.iteration or ())
    return [("/".join(parts[:n]), turns[:m]) for n in range(1, len(parts)) for m in range(min(n, len(turns)) + 1)]


def _new(step: Step, known: set[str]) -> tuple[Point, ...]:
    values = Outputs(
        parameters={n: v for n, v in step.outputs.parameters.items() if v not in known},
        result=None if step.outputs.result in known else step.outputs.result,
    )
    return given.points(values, step.points[0].time)


def _order(built: Built) -> tuple[bool, float, str, tuple[int, ...]]:
    step = built[0]
    started = step.started.timestamp() if step.started else 0.0
    return (step.started is None, started, step.path, tuple(i.index for i in step.iteration or ()))
