"""The trackers that the contract suite runs against, each started once and only if a test needs it."""

import uuid
from collections.abc import Iterator

import pytest
from tests.contract.driver import Driver
from tests.real import mlflow as real_mlflow
from tests.real import neptune
from tests.real.mlflow import Server
from tests.real.neptune_oracle import Oracle


@pytest.fixture(scope="session")
def plain_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_mlflow.serving(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def login_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with MLflow's basic auth."""
    with real_mlflow.running(real_mlflow.with_login(tmp_path_factory.mktemp("mlflow-login"))) as server:
        yield server


@pytest.fixture(scope="session")
def neptune_server() -> Iterator[neptune.Server]:
    """The contract server."""
    with neptune.serving() as server:
        yield server


@pytest.fixture(scope="session")
def neptune_oracle(neptune_server: neptune.Server) -> Iterator[Oracle]:
    """Neptune's own client, reading."""
    oracle = Oracle(neptune_server.token(), neptune_server.project)
    yield oracle
    oracle.close()


WIRED = (pytest.param("mlflow", marks=pytest.mark.mlflow), "neptune")
FILES = ("tensorboard",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of the suite runs for each tracker; one that puts a proxy before it, for those that have an address."""
    if "driver" in metafunc.fixturenames:
        trackers = WIRED if "proxy" in metafunc.fixturenames else (*WIRED, *FILES)
        metafunc.parametrize("driver", trackers, indirect=True, scope="session")


@pytest.fixture(scope="session")
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each tracker in turn."""
    from tests.contract.mlflow_driver import MlflowDriver

    match request.param:
        case "mlflow":
            return MlflowDriver(request.getfixturevalue("plain_mlflow"))
        case "neptune":
            from tests.contract.neptune_driver import NeptuneDriver

            return NeptuneDriver(request.getfixturevalue("neptune_server"), request.getfixturevalue("neptune_oracle"))
        case "tensorboard":
            from tests.contract.tensorboard_driver import TensorboardDriver

            return TensorboardDriver(request.getfixturevalue("tmp_path_factory").mktemp("tensorboard"))
        case other:
            raise AssertionError(other)


@pytest.fixture
def experiment() -> str:
    """A name that no other test uses."""
    return f"churn {uuid.uuid4().hex[:12]}"
