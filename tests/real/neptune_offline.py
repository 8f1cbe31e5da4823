"""The vendor's offline mode: what our worker would send is written to a folder, and the vendor's own reader, that of
``neptune sync``, reads it and brings it to a server. In a process of its own, in a folder of its own.

Operations as JSON (targets/neptune/wire.py) on stdin; NEPTUNE_API_TOKEN and NEPTUNE_PROJECT name the server.
"""

import os
import sys
from pathlib import Path

import msgspec
import neptune
from neptune.cli.collect import collect_offline_containers
from neptune.internal.backends.factory import get_backend
from neptune.internal.id_formats import QualifiedName
from neptune.types.mode import Mode

from pipetrail.targets.neptune import wire
from pipetrail.targets.neptune.client import vendors

FOLDER = Path(".neptune")


def write(operations: tuple[wire.Operation, ...]) -> None:
    """Through the client's own offline mode."""
    run = neptune.init_run(
        mode="offline", capture_stdout=False, capture_stderr=False, capture_traceback=False, git_ref=False,
        capture_hardware_metrics=False, source_files=[],
    )  # fmt: skip
    for operation in operations:
        run._op_processor.enqueue_operation(vendors(operation), wait=False)
    run.stop()


def sync() -> None:
    """What ``neptune sync --offline-only`` does; that command itself needs a package that is no longer made."""
    backend = get_backend(Mode.SYNC)
    project = backend.get_project(QualifiedName(os.environ["NEPTUNE_PROJECT"]))
    (container,) = collect_offline_containers(path=FOLDER)
    container.sync(base_path=FOLDER, backend=backend, project=project)


if __name__ == "__main__":
    write(msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[wire.Operation, ...]))
    sync()
