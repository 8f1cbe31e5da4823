"""`make demo`, as CI runs it: exit code 0 says that every value is equal and nothing is there twice."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.api
@pytest.mark.mlflow
@pytest.mark.slow
@pytest.mark.minutes(2)
def test_the_demo_shows_every_value_equal_and_stops_what_it_started():
    command = [sys.executable, "-m", "deploy.demo", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    assert "34 of 34 values are equal as float64" in said
    assert "killed with SIGKILL" in said
    assert "demo-check is down" in said
    assert max(len(line) for line in said.splitlines() if not line.lstrip().startswith(("the ", "json.dump"))) <= 160
