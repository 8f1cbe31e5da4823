"""`pipetrail run`: the operator."""

import asyncio
import socket
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from pipetrail import observe, settings
from pipetrail.kube import KubeError


def ordinal(host: str) -> int:
    """The number that the name of a StatefulSet's pod ends in; raises :class:`ValueError` if there is none."""
    number = host.partition(".")[0].rpartition("-")[2]
    if not number.isdecimal():
        raise ValueError(f"{host} ends in no number, as pods of a StatefulSet do: name one, --shard 0")
    return int(number)


def _number(shard: str) -> int:
    """Which one `--shard` names."""
    if shard == "auto":
        return ordinal(socket.gethostname())
    if not shard.isdecimal():
        raise ValueError(f"{shard!r} is no shard: give its number, from 0 on, or auto")
    return int(shard)


def run(
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file (YAML): cluster, namespace, places, lease, historyTtlS, outbox.", exists=True),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="kubeconfig context; default: in-cluster, else the current.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Name of this cluster in keys; default: kube-system's uid.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="The operator's own namespace, where ClusterTrackingTargets' Secrets lie.")
    ] = None,
    watch_namespace: Annotated[
        list[str] | None, typer.Option(help="Watch this namespace only (repeat for more); default: all.")
    ] = None,
    argo_ui: Annotated[str | None, typer.Option(help="Argo Server's address for people; runs link to it.")] = None,
    logs_url: Annotated[
        str | None, typer.Option(help="Address of a pod's log, with {namespace} and {pod}; failed steps link to it.")
    ] = None,
    mlmd: Annotated[
        str | None, typer.Option(help="host:port of Kubeflow Pipelines' metadata store (MLMD), for runs of KFP v2.")
    ] = None,
    tensorboard_root: Annotated[
        str | None, typer.Option(help="Folder (a volume) below which TensorBoard targets write their event files.")
    ] = None,
    allow_address: Annotated[
        list[str] | None,
        typer.Option(
            help="Network (CIDR) that trackers may have though it is loopback, link-local or the API server's own; "
            "repeat for more."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Serve /healthz, /readyz and /metrics there, like 0.0.0.0:8080; default: nowhere."),
    ] = None,
    lease: Annotated[
        str | None, typer.Option(help="Name of the Lease in --namespace that one operator holds; default: pipetrail.")
    ] = None,
    no_lease: Annotated[
        bool,
        typer.Option(
            "--no-lease",
            help="Hold no Lease: nothing keeps a second operator from doing the same, and nothing "
            "tells the next one where the watches were.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Which of --shards this one is, from 0 on, or auto: the number that its pod's name ends in."),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(help="How many operators share the namespaces; shard 0's word counts. Default: 1.")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            help="Who this operator is in its Lease; with the same one a restart need not wait. Default: host/pid."
        ),
    ] = None,
    outbox_max: Annotated[
        str | None,
        typer.Option(
            help="What finished records that wait for their tracker, and TrackedRuns, may take of etcd; default: 256Mi."
        ),
    ] = None,
    outbox: Annotated[
        str | None,
        typer.Option(
            help="Where records go beyond --outbox-max: s3://bucket/prefix (with the environment's AWS credentials) or "
            "file:///folder; default: nowhere, they are refused and counted."
        ),
    ] = None,
    argo_server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Argo Server, to read Argo's archive: runs that are gone, and the end of those that went unseen. "
            "Default: none.",
        ),
    ] = None,
    argo_server_token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The token to show to Argo Server, read anew for each call.")
    ] = None,
    argo_server_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="The CA that signed Argo Server's certificate, in PEM form.")
    ] = None,
    log_format: Annotated[
        Literal["auto", "json", "text"], typer.Option(help="auto: text on a terminal, else a JSON object a line.")
    ] = "auto",
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="The least that is said.")] = (
        "info"
    ),
) -> None:
    """Run the operator: watch pipeline runs, record what they produce in the trackers that targets name.

    It reads users' objects and writes only its own kinds, so it can't break a pipeline. Stop it with SIGTERM; it may
    be killed at any moment and goes on where it was.

    One operator works at a time: who holds the Lease pipetrail in --namespace. A second one waits. With --shards each
    of several looks after a part of the namespaces (docs/scale.md).

    Exit codes: 0 stopped; 1 another operator took the Lease; 2 the command line or the settings file is wrong; 3 no
    cluster, no namespace for the Lease, or no right.

    Examples:
      pipetrail run --context kind-lab --argo-ui https://argo.example.com
      pipetrail run --watch-namespace team-a --watch-namespace team-b
      pipetrail run --config settings.yaml --log-format json
    """
    # Imported here: the other verbs need neither kopf nor its second of start-up.
    from pipetrail.controller import app
    from pipetrail.controller.health import address
    from pipetrail.controller.lease import TakenOver
    from pipetrail.readers.archive import ArgoArchive
    from pipetrail.readers.overflow import OverflowStore
    from pipetrail.targets import addresses

    observe.configure(form=log_format, level=log_level)
    try:
        base = settings.load(config.read_bytes()) if config else settings.Settings()
    except (msgspec.DecodeError, OSError) as error:
        raise typer.BadParameter(f"{config}: {' '.join(str(error).split())}", param_hint="--config") from None
    places = msgspec.structs.replace(
        base.places, argo_ui=argo_ui or base.places.argo_ui, logs_url=logs_url or base.places.logs_url
    )
    try:
        number = base.shard if shard is None else _number(shard)
        base = msgspec.structs.replace(
            base, shard=number, shards=base.shards if shards is None else shards,
            lease="" if no_lease else lease or base.lease,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard, --shards") from None
    chosen = msgspec.structs.replace(
        base, cluster=cluster or base.cluster, namespace=namespace or base.namespace, places=places,
        watch_namespaces=tuple(watch_namespace or base.watch_namespaces), mlmd=mlmd or base.mlmd,
        tensorboard_root=tensorboard_root or base.tensorboard_root,
        allow_addresses=tuple(allow_address or base.allow_addresses), listen=listen or base.listen,
        identity=identity or base.identity,
        outbox=outbox or base.outbox, argo_server=argo_server or base.argo_server,
        argo_server_token_file=argo_server_token_file or base.argo_server_token_file,
        argo_server_ca=argo_server_ca or base.argo_server_ca,
    )  # fmt: skip
    try:
        chosen = msgspec.structs.replace(chosen, outbox_max=outbox_max or base.outbox_max)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--outbox-max") from None
    try:
        if chosen.outbox:
            OverflowStore(chosen.outbox)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--outbox") from None
    try:
        if chosen.argo_server:
            ArgoArchive(chosen.argo_server, ca_file=chosen.argo_server_ca)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--argo-server") from None
    try:
        addresses.networks(chosen.allow_addresses)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; write it like 10.0.0.0/8", param_hint="--allow-address") from None
    try:
        if chosen.listen:
            address(chosen.listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    try:
        asyncio.run(app.run(chosen, context=context))
    except TakenOver as error:
        observe.log().error("lease lost", cause=str(error))
        raise typer.Exit(1) from None
    except KubeError as error:
        observe.log().error("cannot run", cause=str(error))
        raise typer.Exit(3) from None
