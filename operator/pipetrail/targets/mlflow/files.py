"""Small files of a run, brought to where its artifacts lie.

MLflow's server takes them itself when the run's artifact address begins with ``mlflow-artifacts:``. Otherwise the
client writes into the store, for which the ``mlflow`` package knows how; it costs 84 MiB and reads credentials from
the process's environment, so it runs in a worker process of its own, for one upload, with a time-out.

Those credentials are the operator's, and it is the tracker that says where to. So this is done for a
ClusterTrackingTarget alone: whoever writes a target in one namespace would else have us write into any store or folder
that we can write to.
"""

import asyncio
import base64
import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from pipetrail.record import Frozen
from pipetrail.targets.mlflow.answers import Entries
from pipetrail.targets.mlflow.wire import Rejection, Wire
from pipetrail.targets.target import Change, File, Retry, TargetError

WORKER_S: Final = 60.0
MOST_SAID: Final = 1 << 16
LIST_CALLS: Final = 500
# What the worker may see of our environment: where Python is, and the stores' own credentials. Nothing of a target.
_PASSED_ON: Final = re.compile(
    r"PATH|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|HOME|TMPDIR|LANG|LC_.*|SSL_CERT_(?:FILE|DIR)|(?:AWS|AZURE|GOOGLE|GCLOUD)_.*"
    r"|MLFLOW_(?:S3|GCS|ARTIFACT)_.*|(?:HTTPS?|NO)_PROXY|(?:https?|no)_proxy"
)


class Errand(Frozen, frozen=True):
    """What the worker is told on its stdin: `files` maps a path to the content in base64."""

    root: str
    files: Mapping[str, str]


class Said(Frozen, frozen=True):
    """What the worker says on its stdout: nothing in `reason` if all is there, `retry` if it may work later."""

    reason: str = ""
    retry: bool = False


async def upload(wire: Wire, root: str, files: Sequence[File], worker: asyncio.Semaphore | None) -> tuple[Change, ...]:
    """Bring `files` to the artifact address `root`; what can't be brought is a change.

    `worker` bounds processes; without it nothing is written with the operator's own credentials.
    """
    parts = urlsplit(root)
    if parts.scheme == "mlflow-artifacts" and not parts.netloc:
        return tuple([c for f in files if (c := await _put(wire, parts.path, f)) is not None])
    if parts.scheme in ("s3", "gs", "wasbs", "abfss", "file", ""):
        if worker is None:
            where = (
                f"artifacts of this run lie at {parts.scheme or 'file'}:, where we write for a ClusterTrackingTarget"
            )
            return _all(files, f"{where} alone: start MLflow with --serve-artifacts, so that it writes them itself")
        async with worker:
            return await _by_worker(root, files)
    return _all(files, f"artifacts of this run lie at {parts.scheme or 'an unknown'}:, where we don't write")


async def listed(wire: Wire, run_id: str, folder: str) -> frozenset[str]:
    """The paths of all files of the run below `folder`; none where MLflow can't tell, and those of the first calls."""
    found: set[str] = set()
    waiting = [{"run_id": run_id, "path": folder}]
    for _ in range(LIST_CALLS):
        if not waiting:
            break
        query = waiting.pop()
        try:
            page = await wire.call("GET", "artifacts/list", Entries, query=query)
        except (Rejection, Retry):  # the store may be away while MLflow itself is well
            break
        found.update(entry.path for entry in page.files if not entry.is_dir)
        waiting += [{"run_id": run_id, "path": entry.path} for entry in page.files if entry.is_dir]
        if page.next_page_token:
            waiting.append({**query, "page_token": page.next_page_token})
    return frozenset(found)


async def kept(wire: Wire, root: str, files: Sequence[File]) -> frozenset[str]:
    """The paths of those of `files` that lie at `root` as they are; none where only a process of ours could look."""
    parts = urlsplit(root)
    if parts.scheme != "mlflow-artifacts" or parts.netloc:
        return frozenset()
    found = set()
    for file in files:
        try:
            if await wire.get(_place(parts.path, file)) == file.data:
                found.add(file.path)
        except (Rejection, TargetError):  # it is not there, or its store is away: then it is sent
            continue
    return frozenset(found)


def _place(path: str, file: File) -> str:
    where = "/".join(quote(s, safe="") for s in f"{path}/{file.path}".split("/") if s not in ("", ".", ".."))
    return f"/api/2.0/mlflow-artifacts/artifacts/{where}"


async def _put(wire: Wire, path: str, file: File) -> Change | None:
    """PUT overwrites, so that it may be repeated. The server keeps no artifacts if it says 404 or 4xx otherwise."""
    try:
        await wire.put(_place(path, file), file.data, file.media_type)
    except Rejection as refusal:
        return _not_uploaded(file, refusal.text)
    return None


async def _by_worker(root: str, files: Sequence[File]) -> tuple[Change, ...]:
    errand = Errand(root=root, files={f.path: base64.b64encode(f.data).decode() for f in files})
    environment = {k: v for k, v in os.environ.items() if _PASSED_ON.fullmatch(k)}
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipetrail.targets.mlflow.upload",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true"}, limit=MOST_SAID,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WORKER_S):
            raw = await _converse(worker, msgspec.json.encode(errand))
            await worker.wait()
    except TimeoutError:
        raise Retry("Unreachable", f"uploading to {urlsplit(root).scheme}: took longer than {WORKER_S:.0f} s") from None
    finally:
        if worker.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
    try:
        said = msgspec.json.decode(raw, type=Said)
    except msgspec.DecodeError:
        said = Said(reason=f"the upload ended with exit code {worker.returncode} and said nothing")
    if said.retry:
        raise Retry("Unreachable", said.reason)
    return _all(files, said.reason) if said.reason else ()


async def _converse(worker: asyncio.subprocess.Process, errand: bytes) -> bytes:
    """Tell the errand, hear the answer's one line (bounded)."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.stdin.write(errand)
        await worker.stdin.drain()
    worker.stdin.close()
    try:
        return await worker.stdout.readline()
    except ValueError:  # longer than the limit: not our worker's answer
        return b""


def _all(files: Sequence[File], why: str) -> tuple[Change, ...]:
    return tuple(_not_uploaded(f, why) for f in files)


def _not_uploaded(file: File, why: str) -> Change:
    return Change(item="file", key=file.path, reason="FileNotUploaded", detail=why)
