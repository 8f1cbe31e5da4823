"""The contract suite's driver for MLflow: a real server; mlflow's own client is the oracle."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tests.e2e import oracle
from tests.real.mlflow import Server

from pipetrail.record import Number
from pipetrail.targets.mlflow.auth import Basic, NoAuth
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.target import Handle, Held, Metric


class MlflowDriver:
    """One MLflow server, with or without a login."""

    create = "runs/create"
    write = "runs/log-batch"
    remembers_deleted = True
    apart = True

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url: str | None = server.url
        self.auth = Basic(user=server.user, password=server.password) if server.user else NoAuth()

    def target(self, url: str | None) -> MlflowTarget:
        assert url is not None
        return MlflowTarget(url, auth=self.auth)

    @property
    def client(self) -> Any:
        """mlflow's client. It reads credentials from the environment, which is ours alone here."""
        for name, value in (("USERNAME", self.server.user), ("PASSWORD", self.server.password)):
            if value:
                os.environ[f"MLFLOW_TRACKING_{name}"] = value
            else:
                os.environ.pop(f"MLFLOW_TRACKING_{name}", None)
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        return oracle.client(self.server.url)

    def oracle(self, experiment: str) -> Sequence[Held]:
        client = self.client
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return ()
        runs = client.search_runs([found.experiment_id], run_view_type=oracle.ACTIVE, max_results=1000)
        return [self._held(client, run) for run in runs]

    def parent(self, held: Held) -> str:
        return held.tags.get("mlflow.parentRunId", "")

    def stored(self, value: Number) -> Number:
        return value

    def _held(self, client: Any, run: Any) -> Held:
        points = [p for key in run.data.metrics for p in client.get_metric_history(run.info.run_id, key)]
        return Held(
            key=run.data.tags.get("pipetrail.key", ""), handle=Handle(id=run.info.run_id), name=run.info.run_name,
            status=oracle.STATUS[run.info.status], started_ms=run.info.start_time, finished_ms=run.info.end_time,
            params=run.data.params, tags=run.data.tags, note=run.data.tags.get("mlflow.note.content", ""), whole=True,
            metrics=tuple(Metric(key=p.key, value=p.value, step=p.step, time_ms=p.timestamp) for p in points),
        )  # fmt: skip


def at(ms: int) -> datetime:
    """A time in milliseconds since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC)
