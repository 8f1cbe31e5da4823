"""A target with backend.neptune: what it is made of, that no process is started for it, and what its reasons mean."""

import ast
from pathlib import Path

import pytest
from tests.real.neptune import token

from pipetrail import api, targets
from pipetrail.targets.addresses import REFUSING
from pipetrail.targets.neptune.limits import CAPABILITIES
from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import TargetError

PACKAGE = Path(__file__).parents[2] / "operator" / "pipetrail" / "targets" / "neptune"
ADDRESS = "https://neptune.example.com"


def found(uri: str = ADDRESS, **more) -> api.FoundTarget:
    neptune = {
        "serverUri": uri, "project": "team-a/churn", "apiTokenSecretRef": {"name": "neptune", "key": "token"}, **more,
    }  # fmt: skip
    made = api.decode_target(
        {
            "apiVersion": api.API_VERSION, "kind": "TrackingTarget",
            "metadata": {
                "name": "n", "namespace": "team-a", "uid": "1", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"backend": {"neptune": neptune}},
        }
    )  # fmt: skip
    assert isinstance(made, api.FoundTarget)
    return made


async def resolve(ref: api.SecretKeyRef | api.ConfigMapKeyRef) -> str:
    return token(ADDRESS) if ref.name == "neptune" else "no certificate"


async def test_a_target_is_made_without_a_process_and_closed_without_one() -> None:
    backend = found().spec.backend
    made = await targets.connect(backend, resolve, targets.Site(namespace="team-a"))
    assert isinstance(made, NeptuneTarget)
    assert made.process.pid is None
    assert made.process._setup.api_server == ()
    assert made.process._setup.allowed == tuple(map(str, REFUSING.allowed))
    await made.close()
    assert made.process.pid is None


@pytest.mark.parametrize(
    ("uri", "more", "reason"),
    [
        ("https://app.neptune.ai", {}, "ServiceDiscontinued"),
        ("https://other.example.com", {}, "TokenMismatch"),
        (ADDRESS, {"caBundleRef": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}}, "TlsFailed"),
    ],
)
async def test_what_can_not_be_right_is_said_at_once(uri: str, more, reason: str) -> None:
    with pytest.raises(TargetError) as caught:
        await targets.connect(found(uri, **more).spec.backend, resolve, targets.Site())
    assert caught.value.reason == reason


def test_fitting_needs_no_connection() -> None:
    from pipetrail.targets.neptune.fit import fit

    assert targets.fit(found().spec.backend) is fit


def test_every_reason_that_the_worker_gives_is_explained() -> None:
    """Those of the whole target; *refused* and *rejected* are about one run and show there."""
    given = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="_means"), args=[ast.Constant(value=kind), ast.Constant(value=why), *_]
                ):
                    given |= {why} if kind in ("retry", "unauthorised", "unusable") else set()
                case ast.Call(
                    func=ast.Name(id="Meaning" | "Trouble") | ast.Attribute(attr="Trouble"), keywords=keywords
                ):
                    said = {k.arg: k.value.value for k in keywords if isinstance(k.value, ast.Constant)}
                    given |= (
                        {said["reason"]} if said.get("kind") in ("retry", "unusable") and "reason" in said else set()
                    )
    assert given >= {"ProjectNotFound", "ProjectArchived", "LimitExceeded", "ClientMissing", "WorkerFailed"}
    assert given - set(api.REASONS) == set()


def test_a_point_that_is_sent_again_is_read_back() -> None:
    assert (CAPABILITIES.replay, CAPABILITIES.client_chosen_id, CAPABILITIES.nan) == ("ReadBack", True, False)
