"""The templates of a run: what kind a step is, what its template declares, and the items of its loops.

Templates lie in three places (sources.md §2.6): the spec, the spec stored from a WorkflowTemplate, and the templates
stored from templateRefs under ``<scope>/<resource>/<template>``.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pipetrail.record import Kind, LoopItem
from pipetrail.sources.argo.body import EMPTY, Json, named, obj, objs, seq, text, word
from pipetrail.sources.argo.names import Element, Turn
from pipetrail.sources.argo.nodes import COMPOSITE, Node

MAX_ITEMS_CHARS: Final = 1 << 20
_REFERENCE: Final = re.compile(r"\{\{\s*([^{}=][^{}]*?)\s*\}\}")
_PARENTHESES: Final = str.maketrans("", "", "()")


class Templates:
    """All templates of one run, and the nodes that values of loops are looked up in."""

    def __init__(self, body: Json, nodes: Mapping[str, Node], params: Mapping[str, str]) -> None:
        spec, status = obj(body, "spec"), obj(body, "status")
        stored = obj(status, "storedWorkflowTemplateSpec")
        self._local = named(stored.get("templates")) | named(spec.get("templates"))
        self._stored = obj(status, "storedTemplates")
        self._nodes = nodes
        self._params = params
        self._by_task: dict[tuple[str, str], Node] | None = None
        self._templates: dict[str, Json] = {}
        self._items: dict[tuple[str, str], list[Any]] = {}

    def of(self, node: Node) -> Json:
        """The template that `node` runs; empty if it is nowhere."""
        if node.id not in self._templates:
            self._templates[node.id] = EMPTY  # boundaries of a broken body may go in a circle
            self._templates[node.id] = self._find(node)
        return self._templates[node.id]

    def _find(self, node: Node) -> Json:
        ref = node.template_ref
        if ref:
            scope = "cluster" if ref.get("clusterScope") is True else "namespaced"
            return obj(self._stored, f"{scope}/{word(ref.get('name'))}/{word(ref.get('template'))}")
        if not node.template:
            return self._inline(node)
        found = obj(self._stored, f"{node.scope}/{node.template}")
        return found or self._local.get(node.template, EMPTY)

    def name(self, node: Node) -> str | None:
        """The template's name as the user wrote it."""
        return node.template or word(node.template_ref.get("template")) or None

    def kind(self, node: Node) -> Kind:
        """What runs: by the node's type where that tells, else by the template."""
        match node.type:
            case "Steps" | "DAG":
                return "composite"
            case "Suspend":
                return "suspend"
            case "HTTP":
                return "http"
            case "Plugin":
                return "plugin"
            case "Container":
                return "container"
        template = self.of(node)
        for key, kind in _KINDS.items():
            if key in template:
                return kind
        return "pod"

    def task(self, node: Node) -> Json:
        """The step or task of the parent's template that `node` was made from; empty if it is nowhere."""
        return self._task(node, node.place.elements[-1]) if node.place.elements else EMPTY

    def _inline(self, node: Node) -> Json:
        return obj(self.task(node), "inline")

    def _task(self, node: Node, element: Element) -> Json:
        """The step or task of the parent's template that `node` was made from."""
        parent = self._nodes.get(node.boundary)
        if parent is None or parent is node or parent.type not in COMPOSITE:
            return EMPTY
        template = self.of(parent)
        tasks = list(objs(obj(template, "dag").get("tasks")))
        for group in seq(template.get("steps")):
            tasks += objs(group if isinstance(group, list | tuple) else obj(group).get("steps"))
        return next((t for t in tasks if t.get("name") == element.task), EMPTY)

    def iteration(self, node: Node) -> tuple[LoopItem, ...] | None:
        """The items of the loops around `node`, outermost first; None outside loops."""
        turns = node.place.turns
        if not turns:
            return None
        found: list[LoopItem] = []
        seen: set[str] = set()
        at: Node | None = node
        while at is not None and at.id not in seen:
            seen.add(at.id)
            element = at.place.elements[-1] if at.place.elements else None
            if element is not None and element.turn is not None:
                found.append(self._item(at, element, element.turn))
            at = self._nodes.get(at.boundary)
        found.reverse()
        if [i.index for i in found] != [t.index for t in turns]:
            return tuple(LoopItem(index=t.index, item=t.item) for t in turns)
        return tuple(found)

    def _item(self, node: Node, element: Element, turn: Turn) -> LoopItem:
        """The item as the pipeline gave it, if the list can be found and its entry prints as the node's name has it."""
        key = (node.boundary, element.task)
        if key not in self._items:
            self._items[key] = self._list(node, self._task(node, element))
        items = self._items[key]
        if turn.index < len(items) and _printed(items[turn.index]) == turn.item:
            return LoopItem(index=turn.index, item=items[turn.index])
        return LoopItem(index=turn.index, item=turn.item)

    def _list(self, node: Node, task: Json) -> list[Any]:
        if isinstance(task.get("withItems"), list):
            return list(task["withItems"])
        given = text(task.get("withParam"))
        if given is None:
            return []  # withSequence: the text in the name is the item
        if reference := _REFERENCE.fullmatch(given.strip()):
            given = self._value(node, reference[1])
        if given is None or len(given) > MAX_ITEMS_CHARS:
            return []
        try:
            items = json.loads(given)
        except (ValueError, RecursionError):
            return []
        return items if isinstance(items, list) else []

    def _value(self, node: Node, reference: str) -> str | None:
        """What ``{{reference}}`` stood for in the scope that `node` was made in."""
        match reference.split("."):
            case ["workflow", "parameters", name]:
                return self._params.get(name)
            case ["inputs", "parameters", name]:
                parent = self._nodes.get(node.boundary)
                return None if parent is None else parameters(parent.inputs).get(name)
            case ["steps" | "tasks", task, "outputs", "result"]:
                found = self._sibling(node.boundary, task)
                return None if found is None else text(found.outputs.get("result"))
            case ["steps" | "tasks", task, "outputs", "parameters", name]:
                found = self._sibling(node.boundary, task)
                return None if found is None else parameters(found.outputs).get(name)
        return None

    def _sibling(self, boundary: str, task: str) -> Node | None:
        if self._by_task is None:
            self._by_task = {}
            for node in self._nodes.values():
                element = node.place.elements[-1] if node.place.elements else None
                if element is not None and element.role == "step" and element.turn is None and not node.place.is_try:
                    self._by_task[node.boundary, element.task] = node
        return self._by_task.get((boundary, task))


_KINDS: Final[Mapping[str, Kind]] = {
    "steps": "composite", "dag": "composite", "resource": "resource", "data": "data", "suspend": "suspend",
    "http": "http", "plugin": "plugin",
}  # fmt: skip


def parameters(side: Json) -> dict[str, str]:
    """Values of inputs or outputs as text, exactly; a parameter without a value is left out (sources.md §1.8)."""
    found: dict[str, str] = {}
    for name, parameter in named(side.get("parameters")).items():
        value = text(parameter.get("value", parameter.get("default")))
        if value is not None:
            found[name] = value
    return found


def _printed(item: Any) -> str | None:
    """An item as Argo prints it into a node's name (its ``processItem`` and ``Item.String``), parentheses taken out.

    A map is ``key:value`` pairs, sorted as texts; a list is what Go prints of one, ``[a b]``; all else is JSON, and a
    text is that without its quotes, so that what is escaped in it stays so.
    """
    match item:
        case None:
            return None
        case Mapping():
            shown = ",".join(sorted(f"{key}:{_json(value)}" for key, value in item.items()))
        case list() | tuple():
            shown = f"[{' '.join(map(_json, item))}]"
        case _:
            shown = _json(item)
    return shown.translate(_PARENTHESES)


def _json(value: Any) -> str:
    try:
        shown = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return ""
    return shown[1:-1] if isinstance(value, str) else shown
