"""``pipetrail record``: a run as a folder, for a bug report, a test or a replay."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipetrail.cli.cluster import find_run, namespace_of, with_cluster
from pipetrail.cli.options import Context, Mlmd, Namespace, fail
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.recording import Event
from pipetrail.recording_writer import Recorded, Recorder, TooBig
from pipetrail.replay.script import Telling

out = Console(highlight=False, soft_wrap=True)


def record(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the Workflow.", show_default=False)],
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="A folder that is empty or new.")],
    namespace: Namespace = None,
    context: Context = None,
    mlmd: Mlmd = "",
    redact: Annotated[
        list[str] | None,
        typer.Option(help="Glob on names whose values are withheld too (repeat for more), as in '*_dsn'."),
    ] = None,
) -> None:
    """Record all that the cluster says about a run: its Workflow, pods and task results, logs, and small artifacts.

    A run that goes on is watched to its end; of one that has ended is taken what is still there. Values of names like
    password, token or secret are withheld, here and wherever else they stand. Look at it with `pipetrail preview
    --recording DIR`, play it with `pipetrail replay DIR`.

    Exit codes: 0 recorded; 2 the command line is wrong; 3 the cluster or the run could not be had.

    Examples:
      pipetrail record churn-sweep-x7k2p -n team-a -o bug-report
      pipetrail record churn-sweep-x7k2p -o bug-report --redact '*_dsn'
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(f"{folder} is not empty: name a new folder", param_hint="--output")
    telling = Telling()

    def seen(event: Event) -> None:
        for text in telling.about(event):
            out.print(f"  {text}", markup=False)

    async def work(kube: Kube) -> Recorded:
        body = await find_run(kube, run, namespace_of(context, namespace))
        recorder = Recorder(kube, body, seen)
        out.print(f"recording {recorder.namespace}/{recorder.name} until it has ended", markup=False)
        await recorder.run()
        reader = LiveReader(kube, mlmd=mlmd)
        try:
            return await recorder.write(folder, reader, additional_keys=redact or ())
        finally:
            await reader.close()

    try:
        done = with_cluster(context, work)
    except TooBig as error:
        fail(str(error))
    except OSError as error:
        fail(f"{folder} can't be written: {error}")
    out.print(f"{folder}: {done.events} events, {done.logs} logs, {done.objects} objects", markup=False)
    for text in done.left_out:
        out.print(f"  left out: {text}", markup=False)
