"""Pages that a step wrote for people, Markdown or HTML, as figures: text as it is, not sanitised yet."""

from typing import Final, Literal

from pipetrail.formats import Content, Note
from pipetrail.record import Html, Markdown

MAX_BYTES: Final = 1 << 20

_SUFFIXES: Final = frozenset({"html", "htm", "md", "markdown", "txt", "csv", "tsv", "json"})


def readable(name: str) -> bool:
    """True if a file of this name can be a page, or what a page shows: not a picture or a script beside it."""
    base = name.rpartition("/")[2]
    return "." not in base or base.rpartition(".")[2].lower() in _SUFFIXES


def read(name: str, data: bytes, kind: Literal["markdown", "html"]) -> Content:
    """The page in `data`, called `name`. What is no UTF-8 is replaced; a page longer than a MiB is left out."""
    if len(data) > MAX_BYTES:
        said = f"a page of {len(data)} bytes; up to {MAX_BYTES} are taken"
        return Content(notes=(Note(reason="TooLarge", message=said),))
    text = data.decode("utf-8", "replace")
    return Content(figures=(Markdown(text=text, name=name) if kind == "markdown" else Html(text=text, name=name),))
