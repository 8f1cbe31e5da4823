"""From a TrackingTarget's backend to the folder that it writes to."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from pipetrail import targets
from pipetrail.api import Backend
from pipetrail.targets.target import TrackerRun, Unusable

RUN = TrackerRun(
    key="c/u", root="c/u", experiment="churn", name="churn-x7k2p", status="Running",
    started=datetime(2025, 11, 3, tzinfo=UTC),
)  # fmt: skip


def backend(**fields: str) -> Backend:
    return msgspec.convert({"tensorboard": fields}, Backend)


def event_files(root: Path) -> list[Path]:
    """Folders in which there are some."""
    return [p.parent for p in root.rglob("events.out.*")]


async def resolve(ref: object) -> str:
    raise AssertionError("a folder refers to nothing")


@pytest.mark.parametrize(
    ("namespace", "directory", "folder"),
    [
        ("team-a", "", "team-a"), ("team-a", "boards", "team-a/boards"), ("team-a", "a/b", "team-a/a/b"),
        ("", "", "_cluster"), ("", "boards", "_cluster/boards"),
    ],
)  # fmt: skip
async def test_each_namespace_has_a_folder_and_cluster_targets_have_one_that_no_namespace_is_called(
    tmp_path: Path, namespace: str, directory: str, folder: str
) -> None:
    site = targets.Site(namespace=namespace, tensorboard_root=str(tmp_path))
    target = await targets.connect(backend(directory=directory, uiUri="https://tb.example.com/x/"), resolve, site)
    try:
        await target.check()
        handle = await target.open(target.fit(RUN), None)
    finally:
        await target.close()
    assert handle.url.startswith("https://tb.example.com/x/?runFilter=")
    assert event_files(tmp_path) == [tmp_path / folder / "churn" / "churn-x7k2p"]


async def test_without_a_root_it_is_said_what_to_do() -> None:
    with pytest.raises(Unusable) as caught:
        await targets.connect(backend(), resolve, targets.Site(namespace="team-a"))
    assert caught.value.reason == "NoTensorboardRoot"
    assert "--tensorboard-root" in caught.value.message


def test_preview_fits_without_a_folder() -> None:
    assert targets.fit(backend())(RUN).tags == {"pipetrail.key": "c/u", "pipetrail.root": "c/u"}


async def test_the_vendors_package_is_not_needed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from tests.unit.test_tensorboard_connect import *\n"
        "async def main():\n"
        f"    site = targets.Site(namespace='team-a', tensorboard_root={str(tmp_path)!r})\n"
        "    target = await targets.connect(backend(), resolve, site)\n"
        "    await target.open(target.fit(RUN), None)\n"
        "    await target.close()\n"
        "asyncio.run(main())\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorboard', 'numpy', 'matplotlib', 'google')])\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
