"""The worker that writes files into an artifact store with the ``mlflow`` package: one errand on stdin, one answer.

``python -m pipetrail.targets.mlflow.upload``; see :mod:`pipetrail.targets.mlflow.files`.
"""

import base64
import os
import re
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from pipetrail.targets.mlflow.files import Errand, Said

_MAY_PASS = re.compile(
    r"timed? ?out|connection|throttl|slow ?down|unavailable|internal ?error|try again", re.IGNORECASE
)


def main() -> int:
    """Read, upload, say how it went."""
    answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    said = _run(msgspec.json.decode(sys.stdin.buffer.read(), type=Errand))
    answer.write(msgspec.json.encode(said).decode() + "\n")
    return 0


def _run(errand: Errand) -> Said:
    parts = urlsplit(errand.root)
    if parts.scheme in ("", "file"):
        # Such an address is a folder on the server's machine. It is ours too only on a shared volume.
        experiment = Path(unquote(parts.path)).parent.parent
        if not experiment.is_dir():
            return Said(
                reason=f"artifacts lie in the folder {experiment} of MLflow's machine, which is not here: start MLflow "
                "with --serve-artifacts and an --artifacts-destination, so that the server writes them"
            )
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    except ImportError:
        return Said(
            reason="the package mlflow is not installed: install pipetrail[mlflow], or let MLflow serve artifacts"
        )
    try:
        repository = get_artifact_repository(errand.root)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in errand.files.items():
                local = Path(folder, Path(name).name)
                local.write_bytes(base64.b64decode(content))
                repository.log_artifact(str(local), os.path.dirname(name) or None)  # type: ignore[no-untyped-call]
    except ImportError as error:
        return Said(reason=f"the store's own package is missing ({error.name}): add it, or let MLflow serve artifacts")
    except Exception as error:  # noqa: BLE001  stores' packages share no base class
        # Not its text: it may hold an address with a signature.
        return Said(reason=f"the store did not take it: {type(error).__name__}", retry=_passing(error))
    return Said()


def _passing(error: Exception) -> bool:
    """Whether the next try may work.."""
    return isinstance(error, ConnectionError | TimeoutError) or bool(
        _MAY_PASS.search(f"{type(error).__name__} {error}")
    )


if __name__ == "__main__":
    sys.exit(main())
