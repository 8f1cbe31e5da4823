"""``pipetrail preview``: exactly what would leave the cluster."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipetrail import capture, recording, redact
from pipetrail.record import Record, to_json
from pipetrail.sources import argo


def preview(
    recorded: Annotated[
        Path | None, typer.Option("--recording", help="A recorded run: the folder that `pipetrail record` wrote.")
    ] = None,
    output: Annotated[Literal["json"], typer.Option("-o", "--output", help="json is record/v1.")] = "json",
    cluster: Annotated[str, typer.Option(help="The cluster's name in the run's key.")] = "recording",
) -> None:
    """Show what would leave the cluster: the whole record of a run, redacted, stdout points included."""
    if recorded is None:
        raise typer.BadParameter("name a recorded run: --recording DIR")
    try:
        record = asyncio.run(of_recording(recorded, cluster=cluster))
    except recording.BadRecording as error:
        raise typer.BadParameter(str(error), param_hint="--recording") from None
    sys.stdout.write(to_json(record, indent=1) + "\n")


async def of_recording(folder: Path, *, cluster: str) -> Record:
    """The redacted record that a recording gives."""
    run = recording.load(folder)
    body, facts = run.fold()
    reading = argo.read(body, facts, cluster=cluster)
    return redact.redact(await capture.capture(reading, run.reader(), capture.EVERYTHING))
