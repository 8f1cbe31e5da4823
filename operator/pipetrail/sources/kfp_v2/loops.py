"""Items of loops: what each turn of a ParallelFor was over.

The list stands in the loop's task if it is a constant; else each turn's execution holds its item as an input; without
MLMD a task of the turn that was given just the item shows it.
"""

from typing import Any

from pipetrail.record import LoopItem
from pipetrail.sources.argo.body import whole
from pipetrail.sources.kfp_v2 import spec
from pipetrail.sources.kfp_v2.asked import Asked
from pipetrail.sources.kfp_v2.places import At, Places
from pipetrail.sources.kfp_v2.spec import Component, Task
from pipetrail.sources.kfp_v2.store import Store, parameters
from pipetrail.sources.kfp_v2.values import typed


class Loops:
    """The items of one run's loops; each is looked up once."""

    def __init__(self, places: Places, store: Store) -> None:
        self._places = places
        self._store = store
        self._loops: dict[At, tuple[Task, Component]] = {}
        self._items: dict[At, LoopItem] = {}
        self._shown: dict[tuple[At, str], Any] = {}

    def show(self, one: Asked) -> None:
        """Remember what a task was given for inputs that are its DAG's: one of them may be the item."""
        turns, launch = self._places.turns(one.place.at), one.launch
        if not turns or launch is None or not launch.inputs:
            return
        for name, source in one.task.wired.items():
            if name in launch.inputs:
                value = typed(launch.inputs[name], one.component.inputs.get(name, ""))
                for turn in turns:
                    self._shown.setdefault((turn, source), value)

    def iteration(self, place: At) -> tuple[LoopItem, ...] | None:
        """The items of the loops around `place`, outermost first; null outside loops."""
        turns = self._places.turns(place)
        found = tuple(self._item(turn) for turn in turns)
        indexes = place[1]
        if len(found) != len(indexes):  # a loop that has no turn of its own in the path
            return tuple(LoopItem(index=index, item=index) for index in indexes) or None
        return found or None

    def item(self, place: At, name: str) -> LoopItem | None:
        """The item of the innermost loop around `place` whose item is called `name`."""
        for turn in reversed(self._places.turns(place)):
            if self._loop(turn)[0].item_input == name:
                return self._item(turn)
        return None

    def _item(self, turn: At) -> LoopItem:
        if turn not in self._items:
            index = turn[1][-1] if turn[1] else 0
            task, component = self._loop(turn)
            value = self._value(turn, task, index)
            made = typed(value, component.inputs.get(task.item_input, ""))
            self._items[turn] = LoopItem(index=index, item=index if value is None else made)
        return self._items[turn]

    def _value(self, turn: At, task: Task, index: int) -> Any:
        if task.items is not None and index < len(task.items):
            return task.items[index]
        driver = self._places.driver(turn)
        told = None if driver is None else whole(driver.outputs.parameters.get("execution-id"))
        execution = self._store.execution(told)
        if execution is not None and (inputs := parameters(execution, "inputs")).get(task.item_input) is not None:
            return inputs[task.item_input]
        return self._shown.get((turn, task.item_input))

    def _loop(self, turn: At) -> tuple[Task, Component]:
        loop = self._places.loop(turn)
        if loop not in self._loops:
            driver = self._places.driver(loop) or self._places.driver(turn)
            params = driver.params if driver is not None else {}
            self._loops[loop] = spec.task(params.get("task")), spec.component(params.get("component"))
        return self._loops[loop]
