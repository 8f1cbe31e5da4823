"""`pipetrail run`: the operator."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pipetrail import observe, settings
from pipetrail.kube import KubeError


def run(
    config: Annotated[
        Path | None, typer.Option(help="Settings file (YAML): cluster, namespace, places, historyTtlS.", exists=True)
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
    log_format: Annotated[str, typer.Option(help="auto, json or text.")] = "auto",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the operator: watch pipeline runs, record what they produce in the trackers that targets name.

    It reads users' objects and writes only its own kinds, so it can't break a pipeline. Stop it with SIGTERM; killing
    it loses nothing.
    """
    # Imported here: the other verbs need neither kopf nor its second of start-up.
    from pipetrail.controller import app

    observe.configure(form=log_format, level=log_level)
    try:
        base = settings.load(config.read_bytes()) if config else settings.Settings()
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"{config}: {error}", param_hint="--config") from None
    places = msgspec.structs.replace(
        base.places, argo_ui=argo_ui or base.places.argo_ui, logs_url=logs_url or base.places.logs_url
    )
    chosen = msgspec.structs.replace(
        base, cluster=cluster or base.cluster, namespace=namespace or base.namespace, places=places,
        watch_namespaces=tuple(watch_namespace or base.watch_namespaces),
    )  # fmt: skip
    try:
        asyncio.run(app.run(chosen, context=context))
    except KubeError as error:
        observe.log().error("cannot run", cause=str(error))
        raise typer.Exit(3) from None
