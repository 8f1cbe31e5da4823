"""Outputs of DAGs: references to what a task inside gave, followed down to it (sources.md §4.7).

MLMD keeps the references as they are; they are the same in the DAG's own component. A loop's output is the list of what
its turns gave (``dsl.Collected``).
"""

from collections.abc import Mapping
from typing import Any, Final

from pipetrail.sources.argo.body import Json, obj, objs, whole, word
from pipetrail.sources.kfp_v2 import spec
from pipetrail.sources.kfp_v2.places import At, Places

MAX_DEPTH: Final = 50
MAX_STEPS: Final = 100_000
MAX_TURNS: Final = 10_000


class Dags:
    """Looks outputs up in `leaves`, what each task gave."""

    def __init__(self, places: Places, leaves: Mapping[At, Mapping[str, Any]]) -> None:
        self._places = places
        self._leaves = leaves
        self._components: dict[At, spec.Component] = {}
        self._left = MAX_STEPS

    def outputs(self, dag: At) -> dict[str, Any]:
        """All outputs of the pipeline at `dag` that can be told."""
        names = self._component(dag).sources
        found = ((word(name), self._output(dag, name, 0)) for name in names)
        return {name: value for name, value in found if value is not None}

    def _component(self, dag: At) -> spec.Component:
        if dag not in self._components:
            driver = self._places.driver(dag)
            self._components[dag] = spec.component(driver.params.get("component") if driver is not None else None)
        return self._components[dag]

    def _output(self, dag: At, name: str, depth: int) -> Any:
        source = obj(self._component(dag).sources.get(name))
        one_of = [*objs(obj(source, "valueFromOneof").get("parameterSelectors"))]
        for selector in (obj(source, "valueFromParameter"), *one_of):
            if (value := self._selected(dag, selector, depth)) is not None:
                return value
        return None

    def _selected(self, dag: At, selector: Json, depth: int) -> Any:
        task, key = word(selector.get("producerSubtask")), word(selector.get("outputParameterKey"))
        self._left -= 1
        if not task or depth > MAX_DEPTH or self._left < 0:
            return None
        path, turns = dag
        inner: At = (f"{path}/{task}", turns)
        if inner in self._leaves:
            return self._leaves[inner].get(key)
        loop = self._places.by_place.get((f"{inner[0]}/iteration-driver", turns))
        if loop is None:
            return self._output(inner, key, depth + 1)
        count = min(whole(loop.outputs.parameters.get("iteration-count")) or 0, MAX_TURNS)
        turn = f"{inner[0]}/iteration-iterations/iteration-item"
        values = [self._output((turn, (*turns, n)), key, depth + 1) for n in range(count)]
        return values if None not in values else None
