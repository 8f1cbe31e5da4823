"""What team A writes into targets."""

from collections.abc import Callable
from typing import Any, Final

from tests.cluster.tenants.objects import artifact, mlflow
from tests.cluster.tenants.town import NOT_ALLOWED, Town
from tests.cluster.tenants.ways import REFUSED, Does, Way, not_called, ready, refused

from pipetrail import api


def target(name: str, backend: Callable[[Town], dict[str, Any]], **spec: Any) -> Does:
    return lambda town: town.a.target(name, backend(town), **spec)


def token(name: str, key: str = "token", **more: str) -> Callable[[Town], dict[str, Any]]:
    auth = {"bearerTokenSecretRef": {"name": name, "key": key}}

    def backend(town: Town) -> dict[str, Any]:
        named = {k: v.format(b=town.b.namespace) for k, v in {**auth["bearerTokenSecretRef"], **more}.items()}
        return mlflow(town.a.proxy.url + "/x", auth={"bearerTokenSecretRef": named})

    return backend


async def cluster_target(town: Town) -> Any:
    selecting = {"namespaceSelector": {}, "backend": mlflow(town.near.url)}
    body = {"apiVersion": api.API_VERSION, "kind": "ClusterTrackingTarget", "metadata": {"name": f"mine-{town.mark}"}}
    return await town.a.make("clustertrackingtargets", {**body, "spec": selecting})


async def selects_nothing(town: Town, _: Any) -> str:
    """Asked after every run has come to its end."""
    return "it takes no run" if not town.open.calls("/runs/create") else "it takes runs"


async def artifacts_elsewhere(town: Town) -> Any:
    """An experiment of A's MLflow whose artifacts lie, it says, in a folder of the operator's machine."""
    import mlflow as client

    (town.folder / "volume-of-team-b" / "experiment").mkdir(parents=True)
    place = (town.folder / "volume-of-team-b" / "experiment").as_uri()
    client.MlflowClient(town.a.server.url).create_experiment("elsewhere", artifact_location=place)
    asked = {"annotations": {"pipetrail.dev/experiment": "elsewhere"}}
    return await town.run(town.a, "elsewhere", meta=asked, outputs=artifact(http={"url": town.near.url}))


async def not_written(town: Town, made: Any) -> str:
    name = made["metadata"]["name"]
    await town.a.reaches(name)
    tracked = await town.a.settled((await town.a.tracked(name))["metadata"]["name"])
    written = list((town.folder / "volume-of-team-b" / "experiment").iterdir())
    reasons = [c["reason"] for c in tracked["changes"]["items"] if c["item"] == "file"]
    return f"written: {written}" if written else ", ".join(sorted(set(reasons)))


WAYS: Final = (
    Way("a Secret's name with a path: `../../team-b/secrets/tracker`", REFUSED,
        target("path", token("../../{b}/secrets/tracker")), refused),
    Way("a Secret's key with a path: `../tracker/token`", REFUSED, target("key", token("store", "../tracker/token")),
        refused),
    Way("a namespace beside a Secret's name", "SecretNotFound", target("beside", token("tracker", namespace="{b}")),
        ready),
    Way("the name of a Secret that only team B has", "SecretNotFound", target("theirs", token("tracker")), ready),
    Way("the name of a ConfigMap that only team B has, as CA bundle", "ConfigMapNotFound",
        target("ca", lambda town: mlflow(town.near.url, caBundleRef={
            "configMapKeyRef": {"name": "ca", "key": "ca.crt"}})), ready),
    Way("a namespaceSelector on a TrackingTarget", "Ready",
        target("selecting", lambda town: mlflow(f"{town.a.proxy.url}/"), namespaceSelector={}, select={}), ready),
    Way("a ClusterTrackingTarget of its own", REFUSED, cluster_target, refused),
    Way("a target in team B's namespace", REFUSED,
        lambda town: town.a.target("mine", mlflow(town.near.url), town.b.namespace), refused),
    Way("a ClusterTrackingTarget that an admin left without namespaceSelector", "it takes no run",
        lambda town: town.run(town.a, "unselected"), selects_nothing),
    Way("a tracker on loopback", "AddressRefused", target("far", lambda town: mlflow(town.far.url)), ready),
    Way("the same as one number: `http://2130706434`", "AddressRefused",
        target("number", lambda town: mlflow(f"http://2130706434:{town.far.port}")), not_called),
    Way("the same in hexadecimal: `http://0x7f000002`", "AddressRefused",
        target("hexadecimal", lambda town: mlflow(f"http://0x7f000002:{town.far.port}")), not_called),
    Way("the same inside an IPv6 address", "AddressRefused",
        target("mapped", lambda town: mlflow(f"http://[::ffff:{NOT_ALLOWED}]:{town.far.port}")), not_called),
    Way("the node's metadata service as tracker", "AddressRefused",
        target("metadata", lambda _: mlflow("http://169.254.169.254/latest")), ready),
    Way("a Neptune server on loopback", "AddressRefused",
        target("neptune", lambda town: {"neptune": {
            "serverUri": town.far.url, "project": "team/churn",
            "apiTokenSecretRef": {"name": "neptune", "key": "token"}}}), ready),
    Way("the API server as tracker", "AddressRefused",
        target("apiserver", lambda town: mlflow(town.cluster.env["server"])), ready),
    Way("a tracker that redirects elsewhere", "NotMlflow",
        target("redirects", lambda town: mlflow(town.redirects)), ready),
    Way("an MLflow that names a folder or store of the operator's for artifacts", "FileNotUploaded",
        artifacts_elsewhere, not_written),
    Way("a TensorBoard folder above its own: `../team-b`", REFUSED,
        target("above", lambda town: {"tensorboard": {"directory": f"../{town.b.namespace}"}}), refused),
)  # fmt: skip
