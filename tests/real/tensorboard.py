"""A real TensorBoard server over a folder, on 127.0.0.1."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

START_S = 60.0


class Server:
    """`loader` is what reads the files: *fast* is the default one in Rust, *slow* the one in Python."""

    def __init__(self, folder: Path, *, loader: str = "fast", log: Path | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "tensorboard.main", "--logdir", str(folder),
            "--host", "127.0.0.1", "--port", str(port),
            "--reload_interval", "1", "--load_fast", "true" if loader == "fast" else "false",
        ]  # fmt: skip
        self._log = (log or folder.parent / f"tensorboard-{loader}.log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + START_S
        while True:
            try:
                self.get("data/runs")
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None, "TensorBoard ended"
                assert time.monotonic() < end, "TensorBoard does not answer"
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def get(self, path: str, **query: str) -> Any:
        """The JSON at a path."""
        with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        """The JSON that a path answers a JSON body with."""
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
