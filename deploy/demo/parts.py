"""What the demo starts: the cluster, MLflow, the operator. Each is found again by pid and start time, and ended so.

All of it lies in `demo/` of the state folder, outside the checkout. Everything that is started here outlives the
demo, so that a person can look around, until `--down`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deploy.local.identity import Identity, identify, is_running
from deploy.local.layout import state_folder
from tests.real import mlflow

REPO = Path(__file__).resolve().parents[2]
CLUSTER = REPO / "deploy" / "local" / "cluster.py"
PODS_CLUSTER = "lab"  # a machine can have one node tier
MLFLOW_PORT = 5005
POLL_S = 0.05
OPERATOR_WITHIN_S = 60.0
GONE_WITHIN_S = 15.0


class Trouble(Exception):
    """Something that a person can mend: what is wrong, what to do, where the log is."""


@dataclass(frozen=True)
class Started:
    """A process of ours."""

    who: Identity
    log: str
    url: str = ""


@dataclass(frozen=True)
class State:
    """What this demo started, on record before anything depends on it."""

    mlflow: Started | None = None
    operator: Started | None = None
    clusters: tuple[str, ...] = ()
    context: str | None = None
    namespaces: tuple[str, ...] = ()


class Book:
    """The demo's own record of what it started."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder() / "demo"
        self.path = self.folder / "running.json"

    def read(self) -> State:
        """What was started by this or an earlier demo; empty if nothing was."""
        try:
            told = json.loads(self.path.read_text())
            return State(
                mlflow=_started(told["mlflow"]), operator=_started(told["operator"]),
                clusters=tuple(told["clusters"]), context=told["context"], namespaces=tuple(told["namespaces"]),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return State()

    def note(self, **changed: Any) -> None:
        """Write down what changed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(replace(self.read(), **changed)), indent=1))
        partial.rename(self.path)

    def forget(self) -> None:
        """Nothing of ours runs any more."""
        self.path.unlink(missing_ok=True)


def _started(told: Mapping[str, Any] | None) -> Started | None:
    return Started(Identity(**told["who"]), told["log"], told["url"]) if told else None


@dataclass(frozen=True)
class Cluster:
    """The API server and the S3 store of this demo, as `cluster.py env -o json` describes them."""

    kubeconfig: str
    kubectl: str
    context: str | None
    s3: Mapping[str, str]
    name: str = ""

    def run(self, *words: str, given: str | None = None) -> str:
        """What kubectl says; :class:`Trouble` with its own words if it fails."""
        command = [self.kubectl, *(("--context", self.context) if self.context else ()), *words]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, env=self.environment, check=False, timeout=120
        )
        if done.returncode:
            raise Trouble(f"kubectl {' '.join(words[:3])} failed: {done.stderr.strip()[:800]}")
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """For programs that talk to it."""
        return {**os.environ, "KUBECONFIG": self.kubeconfig} if self.kubeconfig else dict(os.environ)


def _cluster_command(name: str, *words: str) -> list[str]:
    return [sys.executable, str(CLUSTER), *words, "--name", name]


def local_cluster(book: Book, say: Callable[[str], None], *, pods: bool) -> Cluster:
    """The cluster on this machine, brought up if it isn't; its own progress is passed on.

    Without pods it is one of the demo's own, so that neither tests nor other operators meddle with what is shown. The
    name is the folder's.
    """
    name = PODS_CLUSTER if pods else book.folder.name
    tier = "node" if pods else "api"
    status = subprocess.run(_cluster_command(name, "status", "-o", "json"), capture_output=True, text=True, check=False)
    if '"parts": []' in status.stdout:
        book.note(clusters=tuple({*book.read().clusters, name}))
    command = _cluster_command(name, "up", "--tier", tier)
    up = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert up.stderr is not None
    last = ""
    for line in up.stderr:
        if line.strip():
            last = line.strip()
            say(last)
    if up.wait():
        raise Trouble(f"the cluster did not come up: {last}; `{' '.join(command)}` shows all of it")
    told = subprocess.run(_cluster_command(name, "env", "-o", "json"), capture_output=True, text=True, check=True)
    env = json.loads(told.stdout)
    return Cluster(env["kubeconfig"], str(Path(env["bin"]) / "kubectl"), None, env["s3"], name)


def local_namespace(cluster: Cluster, name: str) -> None:
    """Make it ready for runs: rights of steps, the store's Secret."""
    command = _cluster_command(cluster.name, "namespace", name)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"the namespace {name} can't be made: {(done.stderr or done.stdout).strip()[-500:]}")


def mlflow_up(book: Book, say: Callable[[str], None]) -> Started:
    """MLflow on SQLite; the one of an earlier demo if it still answers."""
    earlier = book.read().mlflow
    if earlier and is_running(earlier.who) and _answers(earlier.url):
        say(f"MLflow is up already at {earlier.url}")
        return earlier
    folder = book.folder / "mlflow"
    port = MLFLOW_PORT if _is_free(MLFLOW_PORT) else 0
    server = mlflow.plain(folder, port=port)
    log = folder / "server.log"
    say(f"MLflow starts on SQLite at {server.url} (about 15 s); log: {log}")
    server.start()
    assert server.process is not None
    who = identify(server.process.pid)
    if who is None:
        raise Trouble(f"MLflow ended at once; the end of {log}:\n{server.said()}")
    started = Started(who, str(log), server.url)
    book.note(mlflow=started)
    begun = told = time.monotonic()
    while True:
        try:
            server.wait(5)
            break
        except TimeoutError:
            if time.monotonic() - begun > mlflow.START_S:
                raise Trouble(f"MLflow does not answer after {mlflow.START_S:.0f} s; see {log}") from None
            if time.monotonic() - told > 9:
                told = time.monotonic()
                say(f"MLflow is still starting, {told - begun:.0f} s")
        except RuntimeError as error:
            raise Trouble(f"MLflow did not start; see {log}: {str(error)[-600:]}") from None
    say(f"MLflow answers after {time.monotonic() - begun:.0f} s")
    return started


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Operator:
    """`pipetrail run` for one namespace, as a process that can be killed and started again."""

    def __init__(self, book: Book, cluster: Cluster, namespace: str) -> None:
        self._book = book
        self._cluster = cluster
        self._namespace = namespace
        self.log = book.folder / "operator.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = 0

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; :meth:`ready` says when it watches. One of an earlier demo is ended first."""
        if (earlier := self._book.read().operator) is not None:
            end(earlier)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        command = [
            sys.executable, "-m", "pipetrail.cli", "run", "--log-format", "json", "--namespace", self._namespace,
            "--watch-namespace", self._namespace,
            "--identity", "demo",  # so that the Lease of one that was killed is its successor's at once
            "--allow-address", "127.0.0.0/8",  # the demo's MLflow is on this machine
            *(("--context", self._cluster.context) if self._cluster.context else ()),
        ]  # fmt: skip
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self._cluster.environment,
                start_new_session=True,
            )  # fmt: skip
        who = identify(self._process.pid)
        if who is not None:
            self._book.note(operator=Started(who, str(self.log)))

    def ready(self) -> bool:
        """Whether it said that it has started; :class:`Trouble` if it ended instead."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise Trouble(f"the operator ended with {self._process.returncode}; the end of {self.log}:\n{self.said()}")
        with self.log.open("rb") as lines:
            lines.seek(self._offset)
            return b'"started"' in lines.read()

    def wait_ready(self, within_s: float = OPERATOR_WITHIN_S) -> None:
        """Until it watches."""
        until = time.monotonic() + within_s
        while not self.ready():
            if time.monotonic() > until:
                raise Trouble(
                    f"the operator has not started after {within_s:.0f} s; the end of {self.log}:\n{self.said()}"
                )
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL: it has no time for a last word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


def end(process: Started) -> None:
    """SIGTERM, then SIGKILL, for its own process group, if it still is that very process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not is_running(process.who):
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.who.pid, number)
        until = time.monotonic() + GONE_WITHIN_S
        while is_running(process.who) and time.monotonic() < until:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.who.pid, os.WNOHANG)
            time.sleep(POLL_S)


def down(book: Book, say: Callable[[str], None]) -> None:
    """End what the demo started, and nothing else."""
    state = book.read()
    for name, process in (("operator", state.operator), ("MLflow", state.mlflow)):
        if process is not None and is_running(process.who):
            end(process)
            say(f"{name} stopped")
    book.note(mlflow=None, operator=None)
    for cluster in state.clusters:
        subprocess.run(_cluster_command(cluster, "down"), check=False)
    _remove_namespaces(state, say)
    book.forget()


def _remove_namespaces(state: State, say: Callable[[str], None]) -> None:
    """Those in clusters that others made."""
    for name in state.namespaces:
        if state.context:
            command = ["kubectl", "--context", state.context, "delete", "namespace", name, "--wait=false"]
        elif PODS_CLUSTER in state.clusters:
            continue
        else:
            command = _cluster_command(PODS_CLUSTER, "namespace", name, "--delete")
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            say(f"namespace {name} removed")


def own_cluster(context: str, namespace: str) -> Cluster:
    """The user's own cluster: nothing is built, the namespace and the store's Secret are ours."""
    environ = os.environ
    needed = ("PIPETRAIL_S3_ENDPOINT", "PIPETRAIL_S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if missing := [name for name in needed if not environ.get(name)]:
        raise Trouble(f"{', '.join(missing)} must name the S3 store that the recorded objects go to")
    s3 = {
        "endpoint": environ["PIPETRAIL_S3_ENDPOINT"], "bucket": environ["PIPETRAIL_S3_BUCKET"],
        "region": environ.get("AWS_REGION", "us-east-1"), "accessKey": environ["AWS_ACCESS_KEY_ID"],
        "secretKey": environ["AWS_SECRET_ACCESS_KEY"],
    }  # fmt: skip
    cluster = Cluster("", "kubectl", context, s3)
    head = {"apiVersion": "v1", "metadata": {"name": "s3-credentials", "namespace": namespace}}
    keys = {"accesskey": s3["accessKey"], "secretkey": s3["secretKey"]}
    for body in (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {**head, "kind": "Secret", "stringData": keys},
    ):
        cluster.run("apply", "-f", "-", given=json.dumps(body))
    return cluster
