"""Replacing what is secret, text by text, in a record."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from pipetrail.record import (
    Artifact,
    Attempt,
    ConfusionMatrix,
    Figure,
    FromFile,
    FromLog,
    FromMlmd,
    FromParameter,
    Group,
    Key,
    Lineage,
    Link,
    Number,
    Outcome,
    Outputs,
    Partial,
    Point,
    Record,
    RocCurve,
    Step,
    Table,
)
from pipetrail.redact.forms import DIGITS, REDACTED, SHAPES, forms, pattern
from pipetrail.redact.names import MAX_DEPTH, Names, text_of

S = TypeVar("S", bound=msgspec.Struct)

_SHORTEST_CUT: Final = 6

# Fields that hold identity or an enum: never scrubbed. Points and named mappings have rules of their own.
_IDENTITY: Final[Mapping[type, frozenset[str]]] = {
    Record: frozenset({"key", "source", "name", "namespace", "pipeline", "schema"}),
    Step: frozenset({"path", "name", "role", "kind", "template"}),
    Outcome: frozenset({"status", "reason"}),
    Attempt: frozenset({"pod", "pod_uid"}),
    Artifact: frozenset({"name", "archive", "type", "media_type"}),
    FromFile: frozenset({"artifact", "recognised"}),
    FromParameter: frozenset({"parameter"}),
    FromMlmd: frozenset({"artifact"}),
    FromLog: frozenset({"artifact"}),
    Group: frozenset({"kind", "name"}),
    Lineage: frozenset({"rel", "name", "uid"}),
    Link: frozenset({"rel"}),
    Partial: frozenset({"reason", "step"}),
    Key: frozenset({"cluster", "uid", "generation"}),
}


class Scrub:
    """Replaces secrets in a record; one per call, so that a text is looked at once."""

    def __init__(self, names: Names, secrets: Iterable[str]) -> None:
        self._names = names
        parts = sorted({form for s in secrets for form in forms(s)}, key=lambda s: (-len(s), s))
        self._secrets = tuple(parts)
        self._numbers = frozenset(s for s in parts if DIGITS.fullmatch(s))
        self._pattern = re.compile("|".join(map(pattern, parts))) if parts else None
        self._memo: dict[str, str] = {}

    def record(self, record: Record) -> Record:
        """`record` without secrets; the same object parts where there is none."""
        return self._struct(
            record,
            params=self._mapping,
            outputs=self._outputs,
            tags=self._mapping,
            annotations=self._mapping,
            steps=lambda steps: tuple(self._step(s) for s in steps),
        )

    def _step(self, step: Step) -> Step:
        gone = {n for n, v in step.outputs.parameters.items() if self._names.secret(n, v)}

        def points(all_points: tuple[Point, ...]) -> tuple[Point, ...]:
            return tuple(self._point(p) for p in all_points if not self._drops(p, gone))

        return self._struct(
            step,
            params=self._mapping,
            outputs=self._outputs,
            points=points,
            figures=lambda figures: tuple(map(self._figure, figures)),
            log_tail=self._tail,
        )

    def _figure(self, figure: Figure) -> Figure:
        """Texts as everywhere. A number that is a secret is none any more; of a curve its point goes with it."""
        match figure:
            case ConfusionMatrix():
                return self._struct(figure, rows=lambda rows: tuple(map(self._numbers_of, rows)))
            case RocCurve():
                return self._struct(figure, fpr=self._numbers_of, tpr=self._numbers_of, threshold=self._numbers_of)
            case Table(header=header):
                secret = frozenset(at for at, name in enumerate(header) if self._names.maybe(name))
                return self._struct(figure, rows=lambda rows: tuple(self._row(header, row, secret) for row in rows))
            case _:
                return self._struct(figure)

    def _numbers_of(self, values: tuple[Number, ...]) -> tuple[Number, ...]:
        if not self._numbers or not any(text_of(v) in self._numbers for v in values):
            return values
        return tuple(math.nan if text_of(v) in self._numbers else v for v in values)

    def _row(self, header: Sequence[str], row: tuple[str, ...], secret: frozenset[int]) -> tuple[str, ...]:
        return tuple(
            REDACTED if at in secret and self._names.secret(header[at], cell) else self.text(cell)
            for at, cell in enumerate(row)
        )

    def _drops(self, point: Point, gone: set[str]) -> bool:
        if isinstance(point.source, FromParameter) and point.source.parameter in gone:
            return True
        return bool(self._numbers) and text_of(point.value) in self._numbers

    def _point(self, point: Point) -> Point:
        key = self.text(point.key)
        source = point.source
        if isinstance(source, FromFile) and self.text(source.file) != source.file:
            source = replace(source, file=self.text(source.file))
        return point if key == point.key and source is point.source else replace(point, key=key, source=source)

    def _outputs(self, outputs: Outputs) -> Outputs:
        return self._struct(outputs, parameters=self._mapping)

    def _mapping(self, mapping: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
        """Named values: a secret's whole value goes, anything else is scrubbed. Names stay."""
        return {
            name: REDACTED if self._names.secret(str(name), value) else self._any(value, depth)
            for name, value in mapping.items()
        }

    def _tail(self, text: str | None) -> str | None:
        """A log's last lines: the first of them may begin in the midst of a secret."""
        if text is None:
            return None
        for secret in self._secrets:
            for cut in range(1, len(secret) - _SHORTEST_CUT + 1):
                if text.startswith(secret[cut:]):
                    text = REDACTED + text[len(secret) - cut :]
                    break
        return self.text(text)

    def text(self, text: str) -> str:
        """`text` without the secrets that are known, and without what has the shape of one."""
        done = self._memo.get(text)
        if done is None:
            done = self._pattern.sub(REDACTED, text) if self._pattern else text
            done = self._memo[text] = SHAPES.sub(self._shape, done)
        return done

    def _shape(self, match: re.Match[str]) -> str:
        if (name := match["name"]) is not None:
            value = match["value"]
            if value.startswith(REDACTED) or not self._names.secret(name, value):
                return match[0]
            return match["assign"] + REDACTED
        return (match["scheme"] or match["auth"] or "") + REDACTED

    def _any(self, value: Any, depth: int = 0) -> Any:
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                return REDACTED if self._numbers and text_of(value) in self._numbers else value
            case msgspec.Struct():
                return self._struct(value)
            case Mapping() | list() | tuple() if depth > MAX_DEPTH:
                return REDACTED  # what is nested deeper than we look is not let out unseen
            case Mapping():
                return {self.text(str(k)): v for k, v in self._mapping(value, depth + 1).items()}
            case list():
                return [self._any(v, depth + 1) for v in value]
            case tuple():
                return tuple(self._any(v, depth + 1) for v in value)
            case _:
                return value

    def _struct(self, struct: S, **rules: Callable[[Any], Any]) -> S:
        keep = _IDENTITY.get(type(struct), frozenset())
        changed = {}
        for name in struct.__struct_fields__:
            old = getattr(struct, name)
            if name in keep or old is None:
                continue
            new = rules.get(name, self._any)(old)
            if new != old:
                changed[name] = new
        return replace(struct, **changed) if changed else struct
