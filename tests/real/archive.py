"""Argo's archive as it is: PostgreSQL, the genuine Argo Server, and for a moment the genuine controller that archives.

The controller needs neither a node nor pods to archive a run that has ended and carries the label
``workflow-archiving-status=Pending``; it makes the tables as well.
"""

import contextlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.real.mlflow import free_port
from tests.real.postgres import PASSWORD, Postgres

from pipetrail.kube import ARGO, ApiError, Kube

PENDING = {"workflows.argoproj.io/completed": "true", "workflows.argoproj.io/workflow-archiving-status": "Pending"}
CONFIG, CREDENTIALS = "archive-config", "archive-postgres"
INSTANCE = "pipetrail-replay"
"""What replayed runs carry, so that no other controller touches them."""
READY_S = 120.0


class Archive:
    """Of the runs of one namespace of one cluster. `url` is Argo Server's; who asks needs a token of the cluster."""

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str) -> None:
        self.folder = folder
        self.namespace = namespace
        self.url = ""
        self._kubeconfig = kubeconfig
        self._database = Postgres(folder, "argo", "archive")
        self._server_port = free_port()
        self._running: list[subprocess.Popen[bytes]] = []
        self._server: subprocess.Popen[bytes] | None = None

    def start_database(self) -> None:
        """An empty database, once."""
        self._database.start()

    async def configure(self, kube: Kube) -> None:
        """What server and controller read in the namespace: where the database is."""
        secret = {"metadata": {"name": CREDENTIALS}, "stringData": {"username": "argo", "password": PASSWORD}}
        keys = {f"{what}Secret": {"name": CREDENTIALS, "key": key}
                for what, key in (("userName", "username"), ("password", "password"))}  # fmt: skip
        postgres = (
            f"{{host: 127.0.0.1, port: {self._database.port}, database: archive, "
            f"tableName: argo_workflows, {_flow(keys)}}}"
        )
        data = {
            "persistence": f"{{archive: true, postgresql: {postgres}}}",
            "metricsConfig": "{enabled: false}",
            "instanceID": INSTANCE,
        }
        for plural, body in (("secrets", secret), ("configmaps", {"metadata": {"name": CONFIG}, "data": data})):
            with contextlib.suppress(ApiError):
                await kube.post(f"/api/v1/namespaces/{self.namespace}/{plural}", body)

    async def take(self, kube: Kube, controller: Path) -> None:
        """Have the controller archive all that has ended in the namespace."""
        path = f"{ARGO}/namespaces/{self.namespace}/workflows"
        waiting = set()
        async for page in kube.pages(path):
            for item in page["items"]:
                name = item["metadata"]["name"]
                await kube.patch(f"{path}/{name}", {"metadata": {"labels": PENDING}})
                waiting.add(name)
        process = self._begin(
            "controller",
            [
                str(controller), f"--kubeconfig={self._kubeconfig}", f"--namespace={self.namespace}", "--namespaced",
                f"--managed-namespace={self.namespace}", f"--configmap={CONFIG}", "--executor-image=none",
            ],
            env={"LEADER_ELECTION_DISABLE": "true", "ARGO_NAMESPACE": self.namespace},
        )  # fmt: skip
        end = time.monotonic() + READY_S
        while waiting:
            assert process.poll() is None, self.said("controller")
            assert time.monotonic() < end, self.said("controller")
            async for page in kube.pages(path):
                for item in page["items"]:
                    status = item["metadata"]["labels"].get("workflows.argoproj.io/workflow-archiving-status")
                    if status in ("Archived", "Persisted"):
                        waiting.discard(item["metadata"]["name"])
            time.sleep(0.2)  # noqa: ASYNC251  the controller is the only one who works now
        self._stop(process)

    def start_server(self, argo: Path) -> None:
        """Argo Server, which asks the cluster who a token is."""
        self._server = self._begin(
            "server",
            [
                str(argo), "server", "--auth-mode=client", "--secure=false", f"--port={self._server_port}",
                f"--kubeconfig={self._kubeconfig}", f"--namespace={self.namespace}", f"--configmap={CONFIG}",
            ],
            env={"ARGO_NAMESPACE": self.namespace, "KUBECONFIG": str(self._kubeconfig)},
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{self._server_port}"
        end = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError):
                try:
                    urllib.request.urlopen(f"{self.url}/api/v1/archived-workflows", timeout=2).close()
                except urllib.error.HTTPError as answer:
                    if answer.code == 401:  # it is there, and wants a token
                        return
            assert self._server.poll() is None, self.said("server")
            assert time.monotonic() < end, self.said("server")
            time.sleep(0.2)

    def stop(self) -> None:
        """All of it, and the data."""
        for process in reversed(self._running):
            self._stop(process)
        self._database.stop()

    def said(self, name: str) -> str:
        """The end of a process's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def _begin(self, name: str, command: list[str], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **(env or {})},
            )  # fmt: skip
        self._running.append(process)
        return process

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._running.remove(process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _flow(keys: Mapping[str, Mapping[str, str]]) -> str:
    return ", ".join(f"{k}: {{name: {v['name']}, key: {v['key']}}}" for k, v in keys.items())


@contextlib.contextmanager
def archived(folder: Path, kubeconfig: Path, namespace: str) -> Iterator[Archive]:
    """A database that runs; the rest is started by who uses it. Stopped at the end."""
    made = Archive(folder, kubeconfig, namespace)
    try:
        made.start_database()
        yield made
    finally:
        made.stop()
