"""``pipetrail/artifacts.json`` and ``.md``: what the run left in its stores, by reference (mapping.md §3)."""

import json
from collections.abc import Sequence
from typing import Any, Final

from pipetrail.record import plain
from pipetrail.shape.layout import Place
from pipetrail.shape.note import code
from pipetrail.targets.target import File

JSON_PATH: Final = "pipetrail/artifacts.json"
MARKDOWN_PATH: Final = "pipetrail/artifacts.md"
_COLUMNS: Final = ("step", "name", "type", "uri", "size", "digest")


def artifacts(steps: Sequence[Place]) -> tuple[File, ...]:
    """Both files, or none if no step has an artifact."""
    rows = [_row(place, artifact) for place in steps for artifact in place.step.artifacts]
    if not rows:
        return ()
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    head = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    lines = ["| " + " | ".join(_cell(row[c]) for c in _COLUMNS) + " |" for row in rows]
    return (
        File(path=JSON_PATH, media_type="application/json", data=text.encode("utf-8", "replace")),
        File(
            path=MARKDOWN_PATH,
            media_type="text/markdown",
            data=("\n".join([*head, *lines]) + "\n").encode("utf-8", "replace"),
        ),
    )


def _row(place: Place, artifact: Any) -> dict[str, Any]:
    step = place.step.path + (f" {place.turn.label}" if place.turn else "")
    return {"step": step, **plain(artifact)}


def _cell(value: Any) -> str:
    return "" if value is None or value == "" else code(str(value)).replace("|", "\\|")
