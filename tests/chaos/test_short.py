"""The short form of `make chaos`: a fixed seed, twenty runs, four kills, three trackers, judged by the judge."""

from pathlib import Path

import pytest
from tests.chaos.driver import Driver
from tests.chaos.schedule import schedule
from tests.cluster.fixtures import Cluster
from tests.e2e.conftest import own_cluster, tracker  # noqa: F401
from tests.real.mlflow import Server

SEED = 1


@pytest.mark.api
@pytest.mark.mlflow
@pytest.mark.slow
@pytest.mark.minutes(4)
async def test_nothing_is_lost_doubled_changed_or_unexplained_after_a_short_storm_of_troubles(
    own_cluster: Cluster,  # noqa: F811
    tracker: Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    plan = schedule(SEED, runs=20, kills=4, short=True)
    print(f"seed {SEED}", *plan.lines, sep="\n")
    verdict = await Driver(plan, tmp_path).play(own_cluster, tracker)
    print(verdict.text)
    assert verdict.clean, f"{verdict.undelivered} {verdict.errors}; the evidence lies in {tmp_path}"
