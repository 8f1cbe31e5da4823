"""What people read of a run in TensorBoard's text dashboard: the note with its links, how it ended, key, params, tags.

Markdown, which TensorBoard renders and strips of scripts. Pure.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pipetrail.record import Frozen
from pipetrail.targets.target import Change, File
from pipetrail.targets.tensorboard.journal import State

PAGE_TAG: Final = "pipetrail/run"
VALUE_MOST: Final = 300
ROWS_MOST: Final = 300

_SIGN: Final = re.compile(r"[!-/:-@\[-`{-~\n\t\r]")


class Drawn(Frozen, frozen=True):
    """A figure as it is written: `text` is markdown, `image` a PNG or null, `file` for what TensorBoard can't show."""

    path: str
    time_ms: int
    text: str
    image: bytes | None = None
    file: File | None = None
    changes: tuple[Change, ...] = ()


def text_tag(path: str) -> str:
    """The tag of a figure's text; a tag holds one kind of value, so it can't be the image's."""
    return f"{path}/text"


def page(state: State) -> str:
    """The text for a run as it stands."""
    spent = f" – {_time(state.finished_ms)}" if state.finished_ms is not None else ""
    head = f"**{state.status}** · {_time(state.opening.started_ms)}{spent} UTC"
    parts = [state.note, head, table(("param", "value"), state.params), table(("tag", "value"), state.tags)]
    return "\n\n".join(p for p in parts if p)


def table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    """Rows of two cells, each as it is written: no sign in them means anything to markdown. Empty if there are none."""
    if not rows:
        return ""
    shown = [f"| {plain(k)} | {plain(v)} |" for k, v in list(rows.items())[:ROWS_MOST]]
    more = [f"| … | {len(rows) - ROWS_MOST} more |"] if len(rows) > ROWS_MOST else []
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *shown, *more])


def plain(text: str) -> str:
    """`text` so that markdown shows it as it is, cut to what a cell can hold."""
    cut = text if len(text) <= VALUE_MOST else f"{text[:VALUE_MOST]}… {len(text)} characters"
    return _SIGN.sub(lambda m: f"&#{ord(m[0])};", cut)


def digest(text: str) -> str:
    """Names what is shown under a tag, so that it is not shown twice."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
