"""A real MLflow server on SQLite, or another database: ``with serving(folder) as server: … server.url …``.

Used by the contract, end-to-end and chaos tests and by the demo. One worker: more are slower at low concurrency, and
SQLite has one writer anyway (targets.md §1.6). The job runner and telemetry are off.

The app is started as `mlflow server` starts it, without that command before it: this halves the time until it answers.
"""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

START_S = 120.0
ADMIN = "admin"
# Its stdin is a pipe whose other end is ours alone: when that closes, the whole process group ends.
BOUND = 'exec 3<&0; "$@" </dev/null 3<&- & server=$!; (read -r _ <&3; kill -TERM 0) & wait $server'
PASSWORD = "correct horse battery staple"


@dataclass
class Server:
    """A server that was started; `folder` has its artifacts and log, and its database if no `database` is named."""

    url: str
    folder: Path
    port: int
    user: str = ""
    password: str = ""
    hosts: str = "localhost:*,127.0.0.1:*"
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    ca: Path | None = None
    host: str = "127.0.0.1"
    database: str = ""

    def start(self, *, bound: bool = False) -> None:
        """Start the process; :meth:`wait` says when it answers. `bound`: it ends with us, even if we are killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self._with_login() if self.user else self._plain()
        environment = {
            **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
            **self._settings(), **self.environment,
        }  # fmt: skip
        if bound:
            command = ["/bin/sh", "-c", BOUND, "mlflow-server", *command]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
                stdin=subprocess.PIPE if bound else subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def _database(self) -> str:
        return self.database or f"sqlite:///{self.folder}/mlflow.db"

    @property
    def _first(self) -> str:
        """What is asked first: without a login something of the database, which is made then."""
        return "/health" if self.user else "/api/2.0/mlflow/experiments/get?experiment_id=0"

    def _plain(self) -> list[str]:
        where = ["--host", self.host, "--port", str(self.port)]
        return [sys.executable, "-m", "uvicorn", *where, "--log-level", "warning", "mlflow.server.fastapi_app:app"]

    def _settings(self) -> dict[str, str]:
        """What `mlflow server` tells the app."""
        return {
            "MLFLOW_SERVER_ALLOWED_HOSTS": self.hosts, "MLFLOW_ENABLE_WORKSPACES": "false",
            "MLFLOW_TRACKING_URI": self._database, "MLFLOW_REGISTRY_URI": self._database,
            "_MLFLOW_SERVER_FILE_STORE": self._database, "_MLFLOW_SERVER_REGISTRY_STORE": self._database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/", "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"), "_MLFLOW_SGI_NAME": "uvicorn",
        }  # fmt: skip

    def _with_login(self) -> list[str]:
        return [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database,
            "--artifacts-destination", str(self.folder / "artifacts"), "--host", self.host, "--port", str(self.port),
            "--workers", "1", "--app-name", "basic-auth", "--allowed-hosts", self.hosts,
        ]  # fmt: skip

    def wait(self, seconds: float = START_S) -> None:
        """Until it answers; raises with the end of its log if it ended or takes longer."""
        until = time.monotonic() + seconds
        context = ssl.create_default_context(cafile=self.ca) if self.ca else None
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"MLflow ended with {self.process.returncode}:\n{self.said()}")
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError),
                urllib.request.urlopen(self.url + self._first, timeout=20, context=context),
            ):
                return
            time.sleep(0.1)
        raise TimeoutError(f"MLflow does not answer after {seconds:.0f} s:\n{self.said()}")

    def stop(self, *, kill: bool = False) -> None:
        """End it and its worker: this server's own process group, nothing else."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def said(self) -> str:
        """The end of its log."""
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def plain(
    folder: Path,
    *,
    port: int = 0,
    hosts: str = "localhost:*,127.0.0.1:*",
    host: str = "127.0.0.1",
) -> Server:
    """A server without credentials that answers to `hosts`, on the address `host` (not yet started)."""
    port = port or free_port(host)
    return Server(f"http://{host}:{port}", folder, port, hosts=hosts, host=host)


def with_login(folder: Path, *, port: int = 0) -> Server:
    """A server with MLflow's own basic auth (not yet started)."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
    )
    return Server(
        f"http://127.0.0.1:{port}", folder, port, ADMIN, PASSWORD,
        environment={"MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests", "MLFLOW_AUTH_CONFIG_PATH": str(settings)},
    )  # fmt: skip


def serving(folder: Path, *, port: int = 0) -> contextlib.AbstractContextManager[Server]:
    """A plain server that answers, stopped at the end."""
    return running(plain(folder, port=port))


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """`server`, started and answering, stopped at the end."""
    server.start(bound=True)
    try:
        server.wait()
        yield server
    finally:
        server.stop()
