"""Which names are secret, and the texts that stand under them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

MAX_DEPTH: Final = 64

_SECRET_NAME: Final = re.compile(r"password|passwd|secret|credential|api[^a-z0-9]?key|private[^a-z0-9]?key")
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_TOKEN_OF_TEXT: Final = frozenset(
    {"pad", "eos", "bos", "sep", "cls", "mask", "unk", "special", "stop"}  # tokenizers' own
    | {"max", "min", "num", "n", "total", "mean", "avg", "per", "count", "limit", "budget", "length", "len"}
)
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_LONGEST_COUNT: Final = 15
_MAX_JSON: Final = 1 << 18
_MAX_BITS: Final = 1024
_LOGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/@:]*:([^\s/@]+)@")


class Names:
    """Which names are secret."""

    def __init__(self, additional: Sequence[str]) -> None:
        self._globs = tuple(g.lower() for g in additional)

    def secret(self, name: str, value: Any) -> bool:
        """Whether `value` is secret because it stands under `name`."""
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
        if depth > MAX_DEPTH:
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
            if depth <= MAX_DEPTH:
                for item in value.values() if isinstance(value, Mapping) else value:
                    yield from _texts(item, depth + 1)
        case _:
            if (text := text_of(value)) is not None:
                yield text


def text_of(value: Any) -> str | None:
    """A number or text as text; None for an integer too long to be one (Python refuses to print it)."""
    return None if isinstance(value, int) and value.bit_length() > _MAX_BITS else str(value)
