"""`pipetrail replay`: play a recording onto an API server."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipetrail import recording
from pipetrail import replay as playing
from pipetrail.kube import Kube, KubeError
from pipetrail.replay.play import MAX_SPEED

out = Console(highlight=False, soft_wrap=True)
problems = Console(stderr=True, highlight=False, soft_wrap=True)


def _speed(text: str) -> float:
    if text == "max":
        return MAX_SPEED
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < MAX_SPEED:
        raise typer.BadParameter(f"{text!r}: write a number above 0 (2 is twice as fast), or max")
    return speed


def replay(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The recording.", exists=True, file_okay=False, show_default=False)
    ],
    context: Annotated[str | None, typer.Option(help="kubeconfig context; default: the current.")] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Where the run shall be; made if it isn't there.")
    ] = "default",
    name: Annotated[
        str | None, typer.Option(help="Name of the run; default: a fresh one, as generateName would give.")
    ] = None,
    speed: Annotated[
        float, typer.Option(help="How many times as fast as it happened, or max.", parser=_speed, metavar="NUMBER|max")
    ] = 1.0,
    times: Annotated[int, typer.Option(help="Play it so many times, each under a fresh name.", min=1)] = 1,
    at_once: Annotated[int, typer.Option(help="At most so many of them at a time.", min=1)] = 20,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Leave time stamps as recorded; default: the run happens now.")
    ] = False,
    thin: Annotated[
        bool, typer.Option("--thin", help="Leave out what pods do before they end: half the writes, for load.")
    ] = False,
    upload: Annotated[
        bool, typer.Option("--upload/--no-upload", help="Put the recorded objects into the cluster's S3 store.")
    ] = True,
    s3_endpoint: Annotated[
        str | None, typer.Option(help="Address of that store; default: $PIPETRAIL_S3_ENDPOINT.", show_default=False)
    ] = None,
    s3_bucket: Annotated[
        str | None, typer.Option(help="Its bucket; default: $PIPETRAIL_S3_BUCKET.", show_default=False)
    ] = None,
    s3_secret: Annotated[
        str | None,
        typer.Option(
            help="Secret with its keys, in the run's namespace: NAME or NAME:ACCESS-KEY:SECRET-KEY; default: "
            "s3-credentials:accesskey:secretkey.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Play a recording onto an API server as Argo's controller did, at any speed.

    It makes and changes the Workflow, its Pods and its WorkflowTaskResults as recorded, under a new name and new uids.
    No pod runs, and a live Argo controller leaves the run alone.

    Exit codes: 0 played; 1 not played, and the message says why; 2 the command line is wrong; 3 no cluster.

    Examples:
      eval "$(python3 deploy/local/cluster.py env)"   # names the local cluster and its store
      pipetrail replay tests/data/argo/loop-retry -n team-a
      pipetrail replay tests/data/argo/loop-retry -n team-a --speed max --times 100
    """
    if name and times > 1:
        raise typer.BadParameter("one name is for one run: leave out --name or --times", param_hint="--name")
    try:
        store = playing.find_store(endpoint=s3_endpoint, bucket=s3_bucket, secret=s3_secret)
        events = recording.load(folder).events()
        script = playing.script(events, namespace=namespace, store=store, thin=thin)
        asyncio.run(_play(script, folder, context, name, speed, times, at_once, keep_times=keep_times, objects=upload))
    except (playing.ReplayError, recording.BadRecording, ValueError) as error:
        problems.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from None
    except KubeError as error:
        problems.print(f"error: {error}", markup=False)
        raise typer.Exit(3) from None


async def _play(
    script: playing.Script,
    folder: Path,
    context: str | None,
    name: str | None,
    speed: float,
    times: int,
    at_once: int,
    *,
    keep_times: bool,
    objects: bool,
) -> None:
    has_objects = any((folder / "store").rglob("*"))
    if has_objects and (script.store is None or not objects):
        why = "as you asked" if not objects else "no store is named: see --s3-endpoint"
        problems.print(f"the recorded objects are not uploaded ({why}); files and archived logs won't be found")
    room = asyncio.Semaphore(at_once)
    async with await Kube.connect(context) as kube, asyncio.TaskGroup() as group:
        await playing.prepare(kube, script.namespace)

        async def one(alone: bool) -> playing.Replayed:
            async with room:
                called = name or playing.fresh_name(script)
                if objects:
                    await playing.upload(folder, script, kube, name=called)
                if alone:
                    took = "as fast as it goes" if speed == MAX_SPEED else f"{script.duration_s / speed:.0f} s"
                    out.print(
                        f"playing {script.name} as {script.namespace}/{called}, {len(script.moves)} events, {took}"
                    )
                done = await playing.replay(
                    script, kube, name=called, speed=speed, keep_times=keep_times, on_move=_tell if alone else _silent
                )
                late = f", at worst {done.worst_delay_s:.1f} s behind" if done.worst_delay_s > 1 else ""
                took = f"{done.finished - done.started:.1f} s"
                out.print(f"{done.namespace}/{done.name} {script.outcome} in {took}{late}  uid {done.uid}")
                return done

        for _ in range(times):
            group.create_task(one(times == 1))


def _tell(played: playing.Played) -> None:
    for text in played.says:
        out.print(f"  {played.move.at_s:6.1f} s  {played.n:4}/{played.total}  {text}", markup=False)


def _silent(_: playing.Played) -> None:
    pass
