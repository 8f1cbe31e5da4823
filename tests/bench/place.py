"""Where it is measured: an API server of the benchmark's own, a namespace in it, a real MLflow, the operator.

Without ``--context`` that is a cluster of `deploy/local` named `bench`, so that nobody else's objects or observers
count; it is taken down at the end unless it was up before. With ``--context`` all is done in one namespace there.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.fixtures import ROOT, Cluster, Kubectl, connect, sweep, with_crds
from tests.e2e.stage import Stage, until
from tests.real import mlflow
from tests.real.operator import Operator

from pipetrail.kube import ARGO, Kube

NAME: Final = "bench"


class Trouble(Exception):
    """Why nothing can be measured, and what to do."""


@dataclass
class Place:
    """All that a measurement needs."""

    cluster: Cluster
    kube: Kube
    stage: Stage
    folder: Path
    short: bool
    say: Callable[[str], None]
    stack: contextlib.ExitStack
    server: mlflow.Server | None = None

    @property
    def namespace(self) -> str:
        """The benchmark's namespace."""
        return self.stage.namespace

    @property
    def environment(self) -> dict[str, str]:
        """For children that connect as kubectl would."""
        return {**os.environ, **({"KUBECONFIG": self.cluster.kubeconfig} if self.cluster.kubeconfig else {})}

    @property
    def context_flags(self) -> list[str]:
        """`--context NAME` on a user's own cluster."""
        return [] if self.cluster.ours or not self.cluster.context else ["--context", self.cluster.context]

    def tracker(self) -> mlflow.Server:
        """The real MLflow, started when it is first needed."""
        if self.server is None:
            self.say("MLflow starts")
            self.server = self.stack.enter_context(mlflow.serving(self.folder / "mlflow"))
        return self.server

    def operator(self, name: str, *more: str, kubeconfig: Path | None = None, lease: bool = False) -> Operator:
        """The operator as users run it, with `more` flags (not yet started)."""
        path = kubeconfig or Path(
            self.cluster.kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config"
        )
        flags = [*self.context_flags, *([] if self.cluster.ours else ["--watch-namespace", self.namespace])]
        return Operator(path, self.folder / f"{name}.log", *flags, *more, lease=lease)


def _tool(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py"), *words, "--name", NAME]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def _cluster(context: str | None) -> Iterator[Cluster]:
    if context:
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise Trouble("--context needs kubectl in PATH")
        yield Cluster(None, context, kubectl, {})
        return
    there = _tool("status").returncode == 0
    up = _tool("up", "--tier", "api")
    if up.returncode:
        raise Trouble(f"no API server: {(up.stderr or up.stdout)[-800:]}")
    try:
        yield with_crds(json.loads(_tool("env", "-o", "json").stdout))
    finally:
        if not there:
            _tool("down")


@contextlib.asynccontextmanager
async def place(context: str | None, *, short: bool, say: Callable[[str], None]) -> AsyncIterator[Place]:
    """Everything is set up, and taken away at the end."""
    say("the API server starts" if context is None else f"in context {context}")
    namespace = f"bench-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_cluster(context))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pipetrail-bench-")))
        async with await connect(cluster) as kube:
            stage = Stage(cluster, kube, namespace)
            await stage.prepare()

            async def serves() -> bool:
                return bool(await kube.get(f"{ARGO}/namespaces/{namespace}/workflows", limit=1))

            await until("Workflows are served", serves)  # a new API server says 429 for a moment
            try:
                yield Place(cluster, kube, stage, folder, short, say, stack)
            finally:
                with contextlib.suppress(AssertionError, subprocess.SubprocessError):
                    sweep(cluster, Kubectl(cluster), namespace)
