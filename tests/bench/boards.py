"""Seconds and memory for a run of many points as event files, beside TensorBoard's own writer."""

import asyncio
import os
from typing import Any, Final

from tests.bench.child import running
from tests.bench.place import Place
from tests.bench.table import Row

POINTS: Final = 100_000
SHORT: Final = 20_000
TIMES: Final = 3


async def measure(place: Place) -> list[Row]:
    """Ours and theirs in turn, each a few times; the best of each, since others use the disk too."""
    points = SHORT if place.short else POINTS
    folder = place.folder / "boards"
    folder.mkdir(exist_ok=True)

    def one(which: str) -> dict[str, Any]:
        log = place.folder / f"boards-{which}.log"
        with running("boards_child", which, str(folder), str(points), env=os.environ, log=log) as child:
            return child.next()

    place.say(f"boards: {points} points as event files, {TIMES} times by us and by TensorBoard's writer")
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "vendor": []}
    for _ in range(TIMES):
        for which, told in runs.items():
            told.append(await asyncio.to_thread(one, which))
    ours, theirs = (min(told, key=lambda run: run["took"]) for told in runs.values())
    said = f"{points:,} points".replace(",", " ")
    return [
        Row(
            name="boards", what=f"{said} of a run into its event file, on the disk", budget=5, unit="s", strict=True,
            measured=ours["took"], anchor=theirs["took"], anchor_is="TensorBoard's own writer, not flushed to the disk",
            note=f"CPU {ours['cpu']:.2f} s, theirs {theirs['cpu']:.2f} s; read back whole in {ours['read']:.1f} s",
        ),
        Row(
            name="boards-memory", what=f"memory that writing {said} takes beside them", budget=16, unit="MB",
            measured=max(run["more"] for run in runs["ours"]),
        ),
    ]  # fmt: skip
