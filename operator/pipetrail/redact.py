"""Redaction: what is secret by name, by value or by shape leaves in no record (docs/limits.md).

**By name.** The value of a parameter (of the run or of a step), an output, a tag, an annotation, a key in a loop's item
or in a JSON text among these is secret if the name contains, in any case, ``password``, ``passwd``, ``secret``,
``credential``, ``api key`` or ``private key`` (with ``-``, ``_``, ``.`` or nothing between), or matches one of the
target's `additional_keys`. ``token`` is also a word of everyday machine learning, so it counts only where
- no word of the name (split at ``_ - . /`` and at camelCase) says that it is text or a count (``tokenizer``,
  ``pad_token``, ``max_tokens``, ``tokens_per_second``), and
- the value is not a plain number of at most 15 digits.

A column of a table whose header is such a name is secret too.

**By value.** What is secret by name is replaced wherever it occurs in any text of the record, also as JSON, a URL,
HTML or base64 would write it, and line by line. Values shorter than four characters, plain numbers of less than six
digits and words like ``true`` or ``none`` are replaced in their own place only: anywhere else they would shred the
record.

**By shape.** AWS, Google, GitHub, GitLab, Slack, Hugging Face and OpenAI keys, JSON web tokens, ``Bearer …``, the login
in ``scheme://user:password@host``, PEM private keys, and ``password=…`` in running text.

Names that a manifest declares (of runs, steps, templates, parameters, artifacts), namespaces and uids stay as they are:
they are identity, and anyone who may list the objects knows them.
"""

import base64
import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar
from urllib.parse import quote, quote_plus

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

REDACTED: Final = "<redacted>"
S = TypeVar("S", bound=msgspec.Struct)

_SECRET_NAME: Final = re.compile(r"password|passwd|secret|credential|api[^a-z0-9]?key|private[^a-z0-9]?key")
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_TOKEN_OF_TEXT: Final = frozenset(
    {"pad", "eos", "bos", "sep", "cls", "mask", "unk", "special", "stop"}  # tokenizers' own
    | {"max", "min", "num", "n", "total", "mean", "avg", "per", "count", "limit", "budget", "length", "len"}
)
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_PLACEHOLDERS: Final = frozenset({"true", "false", "none", "null", "default", "empty", "unset", "undefined"})
_DIGITS: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_SHORTEST: Final = 4
_SHORTEST_NUMBER: Final = 6
_LONGEST_COUNT: Final = 15
_SHORTEST_LINE: Final = 16
_SHORTEST_CUT: Final = 6
_MAX_JSON: Final = 1 << 18
_MAX_DEPTH: Final = 64
_MAX_BITS: Final = 1024

_SHAPES: Final = re.compile(
    r"""
      -----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z0-9 ]*PRIVATE\ KEY-----|\Z)
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | \bAIza[0-9A-Za-z_-]{35}
    | \b(?:gh[opsur]_[0-9A-Za-z]{20,}|github_pat_[0-9A-Za-z_]{20,}|glpat-[0-9A-Za-z_-]{16,})
    | \bxox[abeprs]-[0-9A-Za-z-]{10,}
    | \bhf_[0-9A-Za-z]{20,}
    | \bsk-[0-9A-Za-z_-]{20,}
    | \beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*
    | (?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/@:"'<>]*:[^\s/@"'<>]+(?=@)
    | (?P<auth>\b[Bb]earer\s+|\b[Aa]uthorization:\s*[Bb]asic\s+)[0-9A-Za-z._~+/=-]{8,}
    | (?P<assign>(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]{3,60})["']?(?:=|:\s?(?=["']))["']?)(?P<value>[^\s"',;&]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_LOGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:]*:([^\s/@]+)@")

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


def redact(record: Record, *, additional_keys: Sequence[str] = (), secrets: Sequence[str] = ()) -> Record:
    """`record` with every secret replaced by ``<redacted>``; idempotent, and the same object parts where none is.

    `secrets` are values known from elsewhere (credentials of a store) that are scrubbed too. A point that is a
    redacted output parameter, or whose value is a secret number, is dropped.
    """
    names = _Names(additional_keys)
    found = set(secrets)
    for mapping in _named(record):
        for name, value in mapping.items():
            found.update(names.values(name, value))
    for name, cell in _columns(record, names):
        found.update(names.values(name, cell))
    return _Scrub(names, found).record(record)


def texts(
    named: Iterable[tuple[str, Any]], *, additional_keys: Sequence[str] = (), secrets: Sequence[str] = ()
) -> Callable[[str], str]:
    """The same for texts that are no record (a recording's bodies and logs): by value and by shape.

    `named` are the names and values that stand in them; what is secret among these is scrubbed wherever it occurs.
    """
    names = _Names(additional_keys)
    found = set(secrets)
    for name, value in named:
        found.update(names.values(name, value))
    return _Scrub(names, found).text


class _Names:
    """Which names are secret."""

    def __init__(self, additional: Sequence[str]) -> None:
        self._globs = tuple(g.lower() for g in additional)

    def secret(self, name: str, value: Any) -> bool:
        lower = name.lower()
        if any(fnmatchcase(lower, g) for g in self._globs) or _SECRET_NAME.search(lower):
            return True
        if "token" not in lower or isinstance(value, bool | int | float):
            return False
        if isinstance(value, str) and (
            value.lower() in ("true", "false") or (len(value) <= _LONGEST_COUNT and _NUMBER.fullmatch(value))
        ):
            return False
        words = [w.lower() for w in _WORDS.findall(name)]
        return not any(w in _TOKEN_OF_TEXT or w.startswith(("tokeniz", "tokenis")) for w in words)

    def maybe(self, name: str) -> bool:
        """Whether any value under `name` would be secret."""
        return "token" in name.lower() or self.secret(name, "")

    def values(self, name: str, value: Any, depth: int = 0) -> Iterator[str]:
        """All secret texts in `value`, which stands under `name`; looks into JSON."""
        if depth > _MAX_DEPTH:
            return
        if self.secret(name, value):
            yield from _texts(value, depth)
            return
        match value:
            case str():
                yield from (m.group(1) for m in _LOGIN.finditer(value))
                if value[:1] in "{[" and len(value) <= _MAX_JSON:
                    try:
                        inner = json.loads(value, parse_int=str, parse_float=str)
                    except (ValueError, RecursionError):
                        return
                    yield from self.values("", inner, depth + 1)
            case Mapping():
                for key, item in value.items():
                    yield from self.values(str(key), item, depth + 1)
            case list() | tuple():
                for item in value:
                    yield from self.values("", item, depth + 1)


def _texts(value: Any, depth: int) -> Iterator[str]:
    match value:
        case None | bool():
            return
        case Mapping() | list() | tuple():
            if depth <= _MAX_DEPTH:
                for item in value.values() if isinstance(value, Mapping) else value:
                    yield from _texts(item, depth + 1)
        case _:
            if (text := _text_of(value)) is not None:
                yield text


def _text_of(value: Any) -> str | None:
    """A number or text as text; None for an integer too long to be one (Python refuses to print it)."""
    return None if isinstance(value, int) and value.bit_length() > _MAX_BITS else str(value)


def _named(record: Record) -> Iterator[Mapping[str, Any]]:
    """Every mapping of names to values in `record`."""
    yield from (record.params, record.outputs.parameters, record.tags, record.annotations)
    for step in record.steps:
        yield from (step.params, step.outputs.parameters)
        yield from ({"": turn.item} for turn in step.iteration or ())
        yield from (artifact.metadata for artifact in step.artifacts)


def _columns(record: Record, names: _Names) -> Iterator[tuple[str, str]]:
    """The cells below the headers that may be secret names, in every table of `record`."""
    tables = (figure for step in record.steps for figure in step.figures if isinstance(figure, Table))
    for table in tables:
        for at, name in enumerate(table.header):
            if names.maybe(name):
                yield from ((name, row[at]) for row in table.rows if at < len(row))


class _Scrub:
    """Replaces secrets in a record; one per call, so that a text is looked at once."""

    def __init__(self, names: _Names, secrets: Iterable[str]) -> None:
        self._names = names
        parts = sorted({form for s in secrets for form in _forms(s)}, key=lambda s: (-len(s), s))
        self._secrets = tuple(parts)
        self._numbers = frozenset(s for s in parts if _DIGITS.fullmatch(s))
        self._pattern = re.compile("|".join(map(_pattern, parts))) if parts else None
        self._memo: dict[str, str] = {}

    def record(self, record: Record) -> Record:
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
        if not self._numbers or not any(_text_of(v) in self._numbers for v in values):
            return values
        return tuple(math.nan if _text_of(v) in self._numbers else v for v in values)

    def _row(self, header: Sequence[str], row: tuple[str, ...], secret: frozenset[int]) -> tuple[str, ...]:
        return tuple(
            REDACTED if at in secret and self._names.secret(header[at], cell) else self.text(cell)
            for at, cell in enumerate(row)
        )

    def _drops(self, point: Point, gone: set[str]) -> bool:
        if isinstance(point.source, FromParameter) and point.source.parameter in gone:
            return True
        return bool(self._numbers) and _text_of(point.value) in self._numbers

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
        done = self._memo.get(text)
        if done is None:
            done = self._pattern.sub(REDACTED, text) if self._pattern else text
            done = self._memo[text] = _SHAPES.sub(self._shape, done)
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
                return REDACTED if self._numbers and _text_of(value) in self._numbers else value
            case msgspec.Struct():
                return self._struct(value)
            case Mapping() | list() | tuple() if depth > _MAX_DEPTH:
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


def _forms(secret: str) -> Iterator[str]:
    """`secret` as texts may hold it; nothing if it is too common a text to be looked for."""
    for text in (secret, secret.strip(), *_long_lines(secret)):
        number = _DIGITS.fullmatch(text)
        if len(text) < (_SHORTEST_NUMBER if number else _SHORTEST) or text.lower() in _PLACEHOLDERS or text == REDACTED:
            continue
        yield text
        if not number:
            for quoted in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
                yield quoted
                yield quoted.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")  # as Go does
            yield html.escape(text)
            yield html.escape(text, quote=False)
            yield quote(text, safe="", errors="surrogatepass")
            yield quote_plus(text, errors="surrogatepass")
            yield base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _long_lines(secret: str) -> Iterator[str]:
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _SHORTEST_LINE)


def _pattern(secret: str) -> str:
    escaped = re.escape(secret)
    # Digits inside longer numbers are not the secret: 123456 is no part of 0.81234567.
    return rf"(?<![\d.]){escaped}(?![\d.]*\d)" if _DIGITS.fullmatch(secret) else escaped
