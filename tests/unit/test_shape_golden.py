"""Real runs (recorded, as records) to trees. A look at what changed: ``uv run python -m tests.unit.test_shape_golden``
writes the trees again; read the diff as a data scientist would.
"""

import json
from pathlib import Path

import msgspec
import pytest
from tests.unit.shape_cases import policy, tree

from pipetrail.record import Record, plain

DATA = Path(__file__).parent.parent / "data" / "shape"
NAMES = sorted(path.name.removesuffix(".record.json") for path in DATA.glob("*.record.json"))


def shaped(name: str) -> str:
    """The tree of a record, without its empty fields and with files as text."""
    made = msgspec.json.decode((DATA / f"{name}.record.json").read_bytes(), type=Record)
    runs = []
    for run in tree(made, policy()).runs:
        told = plain(msgspec.structs.replace(run, metrics=(), files=()))
        told["metrics"] = [f"{m.key} @ {m.step} = {m.value!r} ({m.time_ms})" for m in run.metrics]
        told["files"] = {f.path: f.data.decode().splitlines() for f in run.files if f.path.endswith(".md")}
        told["note"] = run.note.splitlines()
        runs.append({key: value for key, value in told.items() if value})
    return json.dumps(runs, ensure_ascii=False, indent=1) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_has_the_tree_that_we_would_enjoy(name):
    assert shaped(name).splitlines() == (DATA / f"{name}.tree.json").read_text().splitlines()


def test_there_are_recorded_runs():
    assert len(NAMES) == 7


if __name__ == "__main__":
    for each in NAMES:
        (DATA / f"{each}.tree.json").write_text(shaped(each))
