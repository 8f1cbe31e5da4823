"""Recorded runs of KFP v2 made ready to be played: ``as_it_happened("iris", folder)``."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

KFP: Final = Path(__file__).parents[1] / "data" / "kfp"
RUNS: Final = ("iris", "iris-cached", "loops", "fails")
RECORDED_STORE: Final = "s3.lab.local:9000"
TASKS: Final = {"iris": 3, "iris-cached": 3, "loops": 8, "fails": 4}
"""How many pods of tasks, or drivers of cached ones, ended in each."""


def truth(name: str) -> Any:
    """What the components logged, by their source."""
    return json.loads((KFP / name / "truth.json").read_text())


def as_it_happened(name: str, root: Path) -> Path:
    """The recording in a folder below `root`: with all events, and with what Argo archived of its pods' logs.

    No pod runs when it is played, so the archived copy is the only one that can be read.
    """
    folder = root / name
    shutil.copytree(KFP / name, folder)
    (folder / "live.jsonl.gz").rename(folder / "events.jsonl.gz")
    run = truth(name)["run"]["name"]
    for log in folder.glob("logs/*/main.log"):
        archived = folder / "store" / "artifacts" / run / log.parent.name / "main.log"
        archived.parent.mkdir(parents=True)
        lines = log.read_text().splitlines(keepends=True)
        archived.write_text("".join(line.partition(" ")[2] for line in lines))
    return folder
