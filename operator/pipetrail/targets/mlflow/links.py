"""Addresses of MLflow's pages, and notes. Pure.

Addresses end in ``?workflowType=machine_learning``: without it a browser with default settings shows the page for
GenAI evaluations (mapping.md §3, seen in Chromium).
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from pipetrail.targets.mlflow.limits import TAG_MOST
from pipetrail.targets.target import Handle

MOST_COMPARED: Final = 100
WORKFLOW: Final = "workflowType=machine_learning"


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{base}/#/experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}?{WORKFLOW}"


def compare_page(base: str, runs: Sequence[Handle]) -> str:
    """The page that draws params against metrics of `runs` (parallel coordinates)."""
    ids = json.dumps([r.id for r in runs], separators=(",", ":"))
    experiments = json.dumps(list(dict.fromkeys(r.experiment_id for r in runs)), separators=(",", ":"))
    return f"{base}/#/compare-runs?runs={quote(ids, safe='')}&experiments={quote(experiments, safe='')}&{WORKFLOW}"


def with_compare(note: str, base: str, runs: Sequence[Handle]) -> str:
    """`note` with the compare link in front: as many runs as MLflow's page takes and a tag's length holds."""
    if len(runs) < 2:
        return note
    shown = list(runs[:MOST_COMPARED])
    while True:
        said = f"the {len(shown)} runs" if len(shown) == len(runs) else f"the first {len(shown)} of {len(runs)} runs"
        link = f"[Compare {said} of this sweep]({compare_page(base, shown)})"
        # On one line with what follows: MLflow folds a description after about three, and a failure is to be seen.
        text = f"{link} · {note}" if note else link
        if len(text) <= TAG_MOST or len(shown) <= 2:
            return text if len(text) <= TAG_MOST else note
        shown.pop()


def note_digest(note: str) -> str:
    """Names a note that we wrote, so that a person's edit is seen."""
    return hashlib.sha256(note.encode()).hexdigest()[:16]
