"""``pipetrail preview``: exactly what would leave the cluster."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml

from pipetrail import api, capture, recording, redact
from pipetrail.cli import tables
from pipetrail.cli.options import Context, Mlmd, Namespace, Output, fail, one_line
from pipetrail.record import Partial, Record, plain
from pipetrail.sources import Reading, argo
from pipetrail.targets.target import TrackerRun


def preview(
    run: Annotated[str | None, typer.Argument(help="Name or uid of a Workflow that stands in the cluster.")] = None,
    recorded: Annotated[
        Path | None, typer.Option("--recording", help="A recorded run: the folder that `pipetrail record` wrote.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--filename", help="A Workflow in a file, as kubectl get -o yaml gives it.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Name of a target in the run's namespace, or a file with one: show the tracker runs instead."
        ),
    ] = None,
    context: Context = None,
    namespace: Namespace = None,
    mlmd: Mlmd = "",
    output: Output = "table",
    cluster: Annotated[str, typer.Option(help="The cluster's name in keys, for recordings and files.")] = "recording",
) -> None:
    """Show what would leave the cluster: a run's whole record, redacted, stdout points included.

    With --target: the tracker runs exactly as they would be sent, with each value that a rule changes. Nothing is sent.

    A Workflow in a file tells neither what lay in its artifacts nor what it printed; --recording and a live run do.

    JSON is the public format pipetrail.record/v1, or pipetrail.trackerruns/v1 with --target.

    Exit codes: 0 shown; 2 the command line, a file or a recording is wrong; 3 the run, the cluster or the target could
    not be had.

    Examples:
      pipetrail preview churn-sweep-x7k2p -n team-a
      pipetrail preview churn-sweep-x7k2p -n team-a --target mlflow
      kubectl get workflow churn-sweep-x7k2p -o yaml > run.yaml
      pipetrail preview -f run.yaml --target target.yaml -o json
      pipetrail preview --recording bug-report
    """
    if sum(x is not None for x in (run, recorded, file)) != 1:
        raise typer.BadParameter("name one: a run, --recording DIR or -f FILE")
    wanted = None if target is None or not Path(target).is_file() else target_of_file(Path(target))
    if target is not None and wanted is None and run is None:
        raise typer.BadParameter(
            f"there is no file {target}; a target's name needs a run in a cluster", param_hint="--target"
        )
    if run is not None:
        record, found = _live(run, context, namespace, mlmd, target if wanted is None else None, wanted)
    else:
        record, found = _stored(recorded, file, cluster, wanted), wanted
    runs = None if found is None else tracker_runs(record, found)
    match output:
        case "json":
            sys.stdout.write(json.dumps(_plain(record, runs), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        case "yaml":
            yaml.safe_dump(_plain(record, runs), sys.stdout, sort_keys=False, allow_unicode=True)
        case _ if runs is None:
            tables.record(record)
        case _:
            tables.runs(runs)


async def of_recording(folder: Path, *, cluster: str, wants: capture.Wants = capture.EVERYTHING) -> Record:
    """The redacted record that a recording gives."""
    stored = recording.load(folder)
    body, facts = stored.fold()
    reader = stored.reader()
    reading = await capture.reading(body, facts, reader, cluster=cluster)
    return redact.redact(await capture.capture(reading, reader, wants))


def tracker_runs(record: Record, target: api.FoundTarget) -> tuple[TrackerRun, ...]:
    """`record` as `target` would be told it: shaped under its policy, fitted to what its tracker holds."""
    from pipetrail import policy, shape, targets
    from pipetrail.settings import Settings

    pinned = policy.pin(target.spec)
    clean = redact.redact(record, additional_keys=pinned.redact.additional_keys)
    tree = shape.shape(
        clean, pinned, places=Settings().places, cluster_target=target.ref.kind == "ClusterTrackingTarget"
    )
    fit = targets.fit(target.spec.backend)
    return tuple(fit(run) for run in tree.runs)


def target_of_file(path: Path) -> api.FoundTarget:
    """The target in a YAML file; what is wrong with it is said as the API server would."""
    body = _read(path, "--target")
    if isinstance(body, dict) and isinstance(body.get("metadata") or {}, dict):
        body = {**body, "metadata": {"namespace": "default", **(body.get("metadata") or {})}}
    match api.decode_target(body):
        case api.InvalidTarget(message=message):
            raise typer.BadParameter(f"{path}: {message}", param_hint="--target")
        case api.FoundTarget() as found:
            return found


def _stored(recorded: Path | None, file: Path | None, cluster: str, target: api.FoundTarget | None) -> Record:
    wants = _wants(target)
    if recorded is not None:
        try:
            return asyncio.run(of_recording(recorded, cluster=cluster, wants=wants))
        except recording.BadRecording as error:
            raise typer.BadParameter(str(error), param_hint="--recording") from None
    assert file is not None
    body = _read(file, "-f")
    if not isinstance(body, dict) or body.get("kind") != "Workflow":
        raise typer.BadParameter(f"{file} holds no Workflow: give one, as kubectl get -o yaml does", param_hint="-f")
    if not isinstance(body.get("metadata"), dict):
        raise typer.BadParameter(f"{file}: the Workflow has no metadata", param_hint="-f")
    reading = asyncio.run(capture.reading(body, argo.RunFacts(), None, cluster=cluster))
    record = reading.record
    if reading.files or reading.logs:
        said = f"{len(reading.files)} artifacts and {len(reading.logs)} logs: a file holds the Workflow alone"
        unread = Partial(reason="NotInTheFile", message=said)
        record = msgspec.structs.replace(record, partial=(*record.partial, unread))
    return redact.redact(record)


def _read(path: Path, option: str) -> Any:
    """What stands in a YAML or JSON file."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path}: {one_line(error)}", param_hint=option) from None


def _live(
    name: str,
    context: str | None,
    namespace: str | None,
    mlmd: str,
    target: str | None,
    wanted: api.FoundTarget | None,
) -> tuple[Record, api.FoundTarget | None]:
    from pipetrail.cli import cluster as clusters
    from pipetrail.kube import Kube
    from pipetrail.readers.live import LiveReader

    where = clusters.namespace_of(context, namespace)

    async def look(kube: Kube) -> tuple[Record, api.FoundTarget | None]:
        found = wanted
        if target is not None:
            found = _named(target, await clusters.targets(kube, where), where)
        body = await clusters.find_run(kube, name, where)
        reader = LiveReader(kube, mlmd=mlmd)
        try:
            _, reading = await clusters.read_run(kube, body, reader)
            return await _captured(reading, reader, _wants(found)), found
        finally:
            await reader.close()

    return clusters.with_cluster(context, look)


async def _captured(reading: Reading, reader: Any, wants: capture.Wants) -> Record:
    return redact.redact(await capture.capture(reading, reader, wants))


def _wants(target: api.FoundTarget | None) -> capture.Wants:
    from pipetrail import policy

    return capture.EVERYTHING if target is None else capture.wants(policy.pin(target.spec))


def _named(name: str, there: Sequence[api.FoundTarget | api.InvalidTarget], namespace: str) -> api.FoundTarget:
    found = next((t for t in there if t.ref.name == name and isinstance(t, api.FoundTarget)), None)
    if found is None:
        names = ", ".join(sorted(t.ref.name for t in there)) or "none"
        fail(f"namespace {namespace} sees no target {name} (it sees: {names})")
    return found


def _plain(record: Record, runs: tuple[TrackerRun, ...] | None) -> Any:
    if runs is None:
        return plain(record)
    return {"schema": "pipetrail.trackerruns/v1", "runs": [_without_bytes(plain(_no_files(r)), r) for r in runs]}


def _no_files(run: TrackerRun) -> TrackerRun:
    return msgspec.structs.replace(run, files=())


def _without_bytes(shown: Any, run: TrackerRun) -> Any:
    files = [{"path": f.path, "mediaType": f.media_type, "text": f.data.decode("utf-8", "replace")} for f in run.files]
    return {**shown, "files": files}
