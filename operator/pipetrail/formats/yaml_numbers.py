"""YAML to values, from libyaml's events: nothing is constructed, no tag is honoured, no alias is expanded.

A plain scalar is a number if it is one strictly (YAML 1.2's ``1e-3`` is, YAML 1.1's ``007``, ``1_000``, ``0x1f`` and
``1:30`` are not) or ``.nan``, ``.inf``, ``-.inf``; a quoted or tagged one is text.
"""

from typing import Any

import yaml

from pipetrail.formats.points import Points
from pipetrail.record import Number, number

_NOT_FINITE = {".nan": "nan", ".inf": "inf", "+.inf": "inf", "-.inf": "-inf"}


class Unparsable(Exception):
    """Not YAML; the message says where."""


def document(text: str, points: Points) -> Any:
    """The value of a YAML file; several documents are a list of them. Raises :class:`Unparsable`."""
    limits = points.limits
    if len(text) > limits.yaml_bytes:
        points.note("TooLarge", f"a YAML file of {len(text)} characters; up to {limits.yaml_bytes} are read")
        return None
    builder = _Builder(points)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            builder.take(event)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise Unparsable(f"{getattr(error, 'problem', None) or type(error).__name__}{where}") from None
    return builder.documents[0] if len(builder.documents) == 1 else builder.documents


class _Builder:
    """Puts events together. `stack` holds open collections; what is deeper than the limit is dropped."""

    def __init__(self, points: Points) -> None:
        self.documents: list[Any] = []
        self._points = points
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []
        self._too_deep = 0

    def take(self, event: Any) -> None:
        match event:
            case yaml.ScalarEvent():
                if not self._too_deep:
                    self._scalar(event)
            case yaml.AliasEvent():
                if not self._too_deep:
                    self._points.note("AliasIgnored", "aliases (*name) are not followed")
                    self._put(None, key="*")
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                if self._too_deep or len(self._stack) >= self._points.limits.depth:
                    self._points.note("TooDeep", f"what is nested deeper than {self._points.limits.depth} is left out")
                    self._too_deep += 1
                    return
                self._open({} if isinstance(event, yaml.MappingStartEvent) else [])
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                if self._too_deep:
                    self._too_deep -= 1
                    if not self._too_deep:
                        self._put(None, key="")
                else:
                    self._stack.pop()
                    self._keys.pop()

    def _open(self, collection: dict[str, Any] | list[Any]) -> None:
        self._put(collection, key="?")
        self._stack.append(collection)
        self._keys.append(None)

    def _scalar(self, event: Any) -> None:
        plain = event.implicit[0]
        self._put(_value(event.value) if plain else event.value, key=event.value)

    def _put(self, value: Any, *, key: str) -> None:
        if not self._stack:
            self.documents.append(value)
            return
        match self._stack[-1]:
            case list() as items:
                items.append(value)
            case mapping:
                waiting = self._keys[-1]
                if waiting is None:
                    self._keys[-1] = key
                    return
                if waiting in mapping:
                    self._points.duplicate(waiting)
                mapping[waiting] = value
                self._keys[-1] = None


def _value(text: str) -> Number | str | None:
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    found = number(_NOT_FINITE.get(text.lower(), text))
    return text if found is None else found
