"""MLflow's answers, as far as we read them (https://mlflow.org/docs/latest/rest-api.html). Unknown fields are ignored.

Numbers that JSON lacks come as strings ("NaN"), 64-bit integers as numbers or, from other servers, as strings.
"""

from pipetrail.record import Frozen


class Pair(Frozen, frozen=True):
    """A param or a tag; an empty value may be left out."""

    key: str
    value: str = ""


class Point(Frozen, frozen=True):
    """A metric's point."""

    key: str
    value: float | str = 0.0
    timestamp: int | str = 0
    step: int | str = 0


class Info(Frozen, frozen=True):
    """What a run is, apart from its data."""

    run_id: str
    experiment_id: str = ""
    run_name: str = ""
    status: str = "RUNNING"
    start_time: int | str = 0
    end_time: int | str | None = None
    artifact_uri: str = ""
    lifecycle_stage: str = "active"


class Data(Frozen, frozen=True):
    """Params, tags and the latest point of each metric."""

    metrics: tuple[Point, ...] = ()
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class Run(Frozen, frozen=True):
    """A run."""

    info: Info
    data: Data = Data()


class OneRun(Frozen, frozen=True):
    """runs/create and runs/get."""

    run: Run


class Runs(Frozen, frozen=True):
    """A page of runs/search."""

    runs: tuple[Run, ...] = ()
    next_page_token: str = ""


class History(Frozen, frozen=True):
    """A page of metrics/get-history."""

    metrics: tuple[Point, ...] = ()
    next_page_token: str = ""


class Entry(Frozen, frozen=True):
    """A file or folder among the artifacts, by its path from the run's root."""

    path: str
    is_dir: bool = False


class Entries(Frozen, frozen=True):
    """A page of artifacts/list."""

    files: tuple[Entry, ...] = ()
    next_page_token: str = ""


class Experiment(Frozen, frozen=True):
    """An experiment."""

    experiment_id: str
    name: str = ""
    lifecycle_stage: str = "active"


class OneExperiment(Frozen, frozen=True):
    """experiments/get-by-name."""

    experiment: Experiment


class Experiments(Frozen, frozen=True):
    """A page of experiments/search."""

    experiments: tuple[Experiment, ...] = ()
    next_page_token: str = ""


class CreatedExperiment(Frozen, frozen=True):
    """experiments/create."""

    experiment_id: str


class Nothing(Frozen, frozen=True):
    """An answer that says no more than that it worked."""


class Trouble(Frozen, frozen=True):
    """An error in MLflow's own form."""

    error_code: str = ""
    message: str = ""
