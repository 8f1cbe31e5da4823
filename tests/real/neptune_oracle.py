"""The vendor's own client, reading back: the oracle of the contract tests, in a process of its own.

A line with the name of an experiment in, a line with its runs out (JSON). Nothing of the product is imported: what an
attribute means is written here a second time.
"""

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

SERIES = "floatSeries"


class Oracle:
    """The process. It is started at the first question and ends with us."""

    def __init__(self, token: str, project: str) -> None:
        self._token, self._project = token, project
        self._process: subprocess.Popen[str] | None = None

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """Every run of `experiment` that is not in the trash."""
        if self._process is None:
            environment = {
                **os.environ, "NEPTUNE_API_TOKEN": self._token, "NEPTUNE_PROJECT": self._project,
                "OAUTHLIB_INSECURE_TRANSPORT": "1", "PYTHONWARNINGS": "ignore", "NEPTUNE_LOGGER_LEVEL": "ERROR",
            }  # fmt: skip
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.real.neptune_oracle"], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(experiment) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait(20)
            self._process.stdout.close()


def _read(experiment: str) -> list[dict[str, Any]]:
    import neptune

    with neptune.init_project(mode="read-only") as project:
        table = project.fetch_runs_table(
            columns=["sys/id", "pipetrail/experiment"], sort_by="sys/id", ascending=True, progress_bar=False
        )
        ours = [r.get_attribute_value("sys/id") for r in table if _experiment(r) == experiment]
    return [_run(neptune, short) for short in ours]


def _experiment(row: Any) -> Any:
    with contextlib.suppress(ValueError):
        return row.get_attribute_value("pipetrail/experiment")
    return None


def _run(neptune: Any, short: str) -> dict[str, Any]:
    with neptune.init_run(with_id=short, mode="read-only") as run:
        atoms = dict(_leaves(run.fetch()))
        series, files = {}, []
        for path, attribute in _leaves(run.get_structure()):
            match type(attribute).__name__:
                case "FloatSeries":
                    rows = attribute.fetch_values(include_timestamp=True, progress_bar=False)
                    # A time is kept as the seconds of this machine's zone; what it was is a whole millisecond.
                    times = rows["timestamp"].dt.to_pydatetime()
                    series[path] = [
                        [float(value), int(step), round(time.timestamp() * 1000)]
                        for value, step, time in zip(rows["value"], rows["step"], times, strict=True)
                    ]
                case "File":
                    files.append(path)
    for path, value in atoms.items():
        if hasattr(value, "timestamp"):
            atoms[path] = round(value.timestamp() * 1000)
    return {"short": short, "atoms": atoms, "series": series, "files": files}


def _leaves(structure: dict[str, Any], above: str = "") -> Any:
    for name, below in structure.items():
        if isinstance(below, dict):
            yield from _leaves(below, f"{above}{name}/")
        else:
            yield above + name, below


def main() -> None:
    """Answer until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(_read(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
