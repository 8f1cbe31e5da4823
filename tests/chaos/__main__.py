"""`python -m tests.chaos`: break everything around the operator, by a seed, and judge what the trackers hold then.

It prints the schedule, the timeline and the judge's table. Exit codes: 0 nothing is lost, doubled, changed or
unexplained; 1 something is, and the evidence is kept; 3 it could not be run.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

os.environ.setdefault("PIPETRAIL_E2E_CLUSTER", "chaos")  # an API server of its own: it will be restarted

from tests.chaos.driver import Driver, Verdict
from tests.chaos.schedule import Schedule, schedule
from tests.cluster.fixtures import with_crds
from tests.e2e.stage import tool
from tests.real import mlflow, postgres

from pipetrail.replay import ReplayError

if TYPE_CHECKING:
    from tests.cluster.fixtures import Cluster

LONG: Final = (500, 50)
SHORT: Final = (20, 4)
RUNS_A_KILL: Final = 10


def main() -> int:
    """Parse, play, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="default: one at random; it is printed, and plays the same faults again"
    )
    parser.add_argument("--runs", type=int, help="at least 40; default: 500")
    parser.add_argument("--kills", type=int, help="default: one for every 10 runs")
    parser.add_argument("--short", action="store_true", help="20 runs and 4 kills, as `make test` does")
    parser.add_argument("--schedule", action="store_true", help="print the schedule and do nothing")
    wanted = parser.parse_args()
    seed = wanted.seed or random.SystemRandom().randrange(1, 10**6)
    runs = wanted.runs or (SHORT if wanted.short else LONG)[0]
    if runs < SHORT[0] or (runs < 2 * SHORT[0] and not wanted.short):
        parser.error(f"--runs {runs}: at least 40, so that each trouble meets some (20 with --short)")
    kills = wanted.kills or (SHORT[1] if wanted.short else max(1, runs // RUNS_A_KILL))
    plan = schedule(seed, runs=runs, kills=kills, short=wanted.short)
    print(f"seed {seed}: {len(plan.runs)} runs, {plan.kills} kills (the same again: {_again(plan, wanted.short)})")
    print(*plan.lines, sep="\n")
    if wanted.schedule:
        return 0
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # that a killed operator hangs up is no news
    folder = Path(tempfile.mkdtemp(prefix=f"pipetrail-chaos-{seed}-"))
    try:
        verdict = _played(plan, folder)
    except AssertionError as error:
        print(f"seed {seed}: NOT CLEAN: {error}\nthe evidence lies in {folder}")
        return 1
    except (RuntimeError, TimeoutError, OSError, ReplayError) as error:
        print(f"chaos: {error}\nwhat there is of it lies in {folder}", file=sys.stderr)
        return 3
    print(_end(verdict, plan, folder))
    return 0 if verdict.clean else 1


def _again(plan: Schedule, short: bool) -> str:
    more = " --short" if short else ""
    return f"python -m tests.chaos --seed {plan.seed} --runs {len(plan.runs)} --kills {plan.kills}{more}"


def _played(plan: Schedule, folder: Path) -> Verdict:
    with ExitStack() as stack:
        server = mlflow.plain(folder / "mlflow")
        server.database = "" if plan.short else _database(stack, folder)
        server.start(bound=True)
        stack.callback(server.stop)
        cluster = _cluster(stack)
        server.wait()
        return asyncio.run(Driver(plan, folder).play(cluster, server))


def _database(stack: ExitStack, folder: Path) -> str:
    """PostgreSQL where it is installed; empty for MLflow's own SQLite."""
    if why := postgres.missing():
        print(f"MLflow is on SQLite: {why}", flush=True)
        return ""
    print("MLflow is on PostgreSQL", flush=True)
    return stack.enter_context(postgres.serving(folder, "mlflow", "mlflow")).url


def _cluster(stack: ExitStack) -> "Cluster":
    there = tool("status").returncode == 0
    print("the API server starts", flush=True)
    up = tool("up", "--tier", "api")
    if up.returncode:
        raise RuntimeError(f"no API server: {(up.stderr or up.stdout)[-800:]}")
    if not there:
        stack.callback(tool, "down")
    return with_crds(json.loads(tool("env", "-o", "json").stdout))


def _end(verdict: Verdict, plan: Schedule, folder: Path) -> str:
    lines = [verdict.text.rstrip()]
    lines += [f"  not delivered: {text}" for text in verdict.undelivered[:20]]
    if verdict.errors:
        lines.append(f"  the operator logged {verdict.errors} errors of its own ('delivery failed')")
    word = "clean" if verdict.clean else "NOT CLEAN"
    lines.append(f"seed {plan.seed}: {word} after {verdict.seconds:.0f} s, {time.strftime('%Y-%m-%d')}")
    if verdict.clean:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        lines.append(
            f"the evidence lies in {folder}: schedule, timeline, verdict, the operator's log, the trackers' files"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
