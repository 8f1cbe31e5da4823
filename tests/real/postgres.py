"""PostgreSQL as it is: Debian's, run as a user that is not root, on a port and in a folder of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.local.packages import postgres
from tests.real.mlflow import free_port

PASSWORD = "for-tests"
READY_S = 120.0
STOP_S = 20.0


def missing() -> str:
    """What this machine lacks, or nothing."""
    return "" if postgres() is not None else "no PostgreSQL server here: apt-get install postgresql"


def _user() -> str | None:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Postgres:
    """A server whose `user` owns the one `database` in it; its log is `postgres.log` in `folder`."""

    def __init__(self, folder: Path, user: str, database: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._user = user
        self._database = database
        self._data = Path(tempfile.mkdtemp(prefix="pipetrail-pg-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As SQLAlchemy takes it."""
        return f"postgresql+psycopg2://{self._user}:{PASSWORD}@127.0.0.1:{self.port}/{self._database}"

    def start(self, **settings: str) -> None:
        """Start it with an empty database, once; `settings` are the server's own."""
        user, binaries = _user(), postgres()
        assert binaries is not None
        if user is not None:
            shutil.chown(self._data, user)
        secret = self._data / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data, path = str(self._data / "data"), {"PATH": os.environ["PATH"]}
        subprocess.run(
            [
                str(binaries / "initdb"), "-D", data, "-U", self._user, "-A", "scram-sha-256", "--pwfile", str(secret),
                "--no-sync", "--encoding", "UTF8", "--locale", "C",
            ],
            check=True, capture_output=True, user=user, cwd=self._data, env=path,
        )  # fmt: skip
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(self._data),
            "fsync": "off", **settings,
        }  # fmt: skip
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", data, *(f"--{k}={v}" for k, v in settings.items())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, user=user, cwd=self._data,
                env={**path, "HOME": str(self.folder)},
            )  # fmt: skip
        command = [binaries / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", self._user, "postgres", "-c"]
        end = time.monotonic() + READY_S
        while subprocess.run(
            [*command, f"create database {self._database}"], capture_output=True, check=False,
            env={**path, "PGPASSWORD": PASSWORD},
        ).returncode:  # fmt: skip
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)

    def stop(self) -> None:
        """End it without waiting for its clients, and remove the data."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._data, ignore_errors=True)

    def said(self) -> str:
        """The end of its log."""
        return (self.folder / "postgres.log").read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def serving(folder: Path, user: str, database: str, **settings: str) -> Iterator[Postgres]:
    """A server that answers, stopped at the end."""
    made = Postgres(folder, user, database)
    try:
        made.start(**settings)
        yield made
    finally:
        made.stop()
