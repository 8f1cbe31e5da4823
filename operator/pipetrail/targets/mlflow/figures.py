"""Figures as files of a run, which MLflow's page of artifacts shows: pictures, tables, markdown and HTML.

A file that is sent again overwrites itself.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Table
from pipetrail.targets.figures import filed, path_of
from pipetrail.targets.mlflow.files import upload
from pipetrail.targets.mlflow.wire import Wire
from pipetrail.targets.target import Change, Plot

AT_ONCE: Final = 10  #: figures whose files are in memory at a time


async def send(wire: Wire, root: str, plots: Sequence[Plot], worker: asyncio.Semaphore | None) -> list[Change]:
    """Make the files of `plots` and bring them to the artifact address `root`, some at a time (:func:`upload`)."""
    changes: list[Change] = []
    for at in range(0, len(plots), AT_ONCE):
        made = [await filed(plot) for plot in plots[at : at + AT_ONCE]]
        changes += [change for one in made for change in one.changes]
        refused = await upload(wire, root, [file for one in made for file in one.files], worker)
        changes += [replace(change, item="figure") for change in refused]
    return changes


def logged_tables(plots: Iterable[Plot], most: int) -> str:
    """The tag ``mlflow.loggedArtifacts``, which has MLflow show a JSON as a table; as many as fit `most` characters."""
    said: list[dict[str, str]] = []
    for plot in plots:
        if isinstance(plot.figure, Table):
            said.append({"path": path_of(plot, "json"), "type": "table"})
            if len(json.dumps(said)) > most:
                said.pop()
                break
    return json.dumps(said) if said else ""
