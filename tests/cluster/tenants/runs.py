"""What team A writes into Workflows, their artifacts, and what hangs on them."""

from collections.abc import Callable
from typing import Any, Final

from tests.cluster.tenants.objects import artifact, workflow
from tests.cluster.tenants.town import NOT_ALLOWED, Town
from tests.cluster.tenants.ways import ITS_OWN, Does, Way, lacks, own
from tests.e2e.stage import until


def run(name: str, changes: Callable[[Town], dict[str, Any]]) -> Does:
    return lambda town: town.run(town.a, name, **changes(town))


def s3(name: str, where: Callable[[Town], dict[str, Any]], **artifact_s3: Any) -> Does:
    """A run with one metric file at team B's key, in the repository that `where` makes of the honest one."""

    def changes(town: Town) -> dict[str, Any]:
        lies = {"key": town.key, **{k: v(town) if callable(v) else v for k, v in artifact_s3.items()}}
        return {"outputs": artifact(s3=lies), "status": town.repository(**where(town))}

    return run(name, changes)


def secret(name: str) -> Callable[[Town], dict[str, Any]]:
    return lambda town: {
        f"{each}KeySecret": {"name": name.format(b=town.b.namespace), "key": each} for each in ("access", "secret")
    }


def plain(endpoint: Callable[[Town], str]) -> Callable[[Town], dict[str, Any]]:
    """A repository elsewhere, asked with A's own keys."""
    return lambda town: {"endpoint": endpoint(town).rpartition("://")[2]}


async def of_their_uid(town: Town) -> Any:
    """A's Workflow with B's run's name, labels and owner."""
    owner = {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "finished", "uid": town.uids["finished"],
    }  # fmt: skip
    labels = {f"workflows.argoproj.io/{each}": "finished" for each in ("workflow", "resubmitted-from-workflow")}
    return await town.a.make("workflows", workflow("finished", labels=labels, meta={"ownerReferences": [owner]}))


async def facts(town: Town) -> Any:
    """A pod that has succeeded and a complete result of the step that B's live run is in; then B's own come.

    B's arrive before the run's node says anything: so would A's, if they counted.
    """
    await town.step_ends(town.a, "live", forged="0.25")
    await town.step_ends(town.b, "live", own="0.75")


async def theirs_untouched(town: Town, _: Any) -> str:
    async def keys() -> set[str]:
        held = [h for h in await town.held(town.b.server) if h.tags["pipetrail.run"] == "live"]
        return {key for h in held for key, *_ in h.points}

    there = await until("team B's live run has a value", keys)
    return "team B's run has its own values alone" if there == {"own"} else f"it has {there}"


async def in_own_experiment(town: Town, made: Any) -> str:
    name = made["metadata"]["name"]
    await town.a.reaches(name, f"shared-{town.mark}")
    held = [h for h in await town.held(town.shared_server) if h.tags["pipetrail.uid"] == made["metadata"]["uid"]]
    return ", ".join(h.experiment.replace(town.mark, "") for h in held)


async def nothing_of_theirs(town: Town, made: Any) -> str:
    """Whether it is recorded is KFP's matter; the scan of all that A sees says whether anything came with it."""
    found = await town.a.tracked(made["metadata"]["name"])
    return "no value of team B's" if found is None or not found["status"].get("metrics") else str(found["status"])


WAYS: Final = (
    Way("the annotation `pipetrail.dev/targets` with team B's target", ITS_OWN,
        run("targets", lambda town: {"meta": {"annotations": {
            "pipetrail.dev/targets": f"mlflow,{town.b.namespace}/mlflow"}}}), own),
    Way("the annotation `pipetrail.dev/experiment` with team B's experiment in a shared tracker",
        "team-a-/team-b/finished",
        run("experiment", lambda _: {"meta": {"annotations": {"pipetrail.dev/experiment": "team-b/finished"}}}),
        in_own_experiment),
    Way("name, labels and owner of team B's run on its own", ITS_OWN, of_their_uid, own),
    Way("pods and task results owned by team B's run", "team B's run has its own values alone", facts,
        theirs_untouched),
    Way("an artifact in team B's place, with its own keys", "StoreForbidden", s3("keys", lambda _: {}), lacks),
    Way("an artifact in team B's place, with the name of team B's Secret", "SecretNotFound",
        s3("their-secret", secret("b-store")), lacks),
    Way("the same with a path: `../../team-b/secrets/b-store`", "SecretNotFound",
        s3("path-secret", secret("../../{b}/secrets/b-store")), lacks),
    Way("an artifact in team B's place, with no keys", "StoreForbidden",
        s3("anonymous", lambda _: {"accessKeySecret": None, "secretKeySecret": None}), lacks),
    Way("an artifact's key that climbs: `mine/../tenants/metrics.json`", "StoreKeyUnusable",
        s3("climbs", lambda _: {}, key=lambda town: f"mine/../{town.key}"), lacks),
    Way("team B's file as the archived log of a step", "StoreForbidden",
        run("log", lambda town: {"status": town.repository(), "outputs": {"artifacts": [
            {"name": "main-logs", "s3": {"key": town.key}}]}}), lacks),
    Way("team B's artifact repository by reference", "RepositoryUnknown",
        run("by-reference", lambda town: {"outputs": artifact(s3={"key": town.key}), "status": {
            "artifactRepositoryRef": {"namespace": town.b.namespace, "configMap": "artifact-repositories"}}}), lacks),
    Way("an artifact in another store than its run's repository", "ForeignStore",
        s3("foreign", lambda _: {}, endpoint=lambda town: f"127.0.0.1:{town.near.port}"), lacks),
    Way("an http artifact", "HttpArtifact",
        run("http", lambda town: {"outputs": artifact(http={"url": f"{town.near.url}/metrics.json"})}), lacks),
    Way("a repository on loopback", "StoreRefused",
        s3("far", plain(lambda town: f"{NOT_ALLOWED}:{town.far.port}")), lacks),
    Way("the node's metadata service as repository", "StoreRefused",
        s3("metadata", plain(lambda _: "169.254.169.254")), lacks),
    Way("the API server as repository", "StoreRefused",
        s3("apiserver", plain(lambda town: town.cluster.env["server"])), lacks),
    Way("a repository that redirects elsewhere", "StoreRefused",
        s3("moved", plain(lambda town: town.redirects)), lacks),
    Way("a repository that redirects when a folder is listed", "StoreRefused",
        s3("moved-list", plain(lambda town: town.redirects_lists)), lacks),
    Way("a memoized step, from a cache of team B's", ITS_OWN,
        run("memoized", lambda _: {"node": {"memoizationStatus": {"hit": True, "key": "k", "cacheName": "ca"}}}), own),
    Way("parameters and templates that name team B's Secrets and ConfigMaps", ITS_OWN,
        run("values", lambda town: {
            "spec": {"arguments": {"parameters": [{"name": "p", "value": "1"}]}, "templates": [
                {"name": "main", "container": {"image": "i", "env": [{"name": "T", "valueFrom": {
                    "secretKeyRef": {"name": "tracker", "key": "token"}}}]}}]},
            "status": {"storedTemplates": {f"namespaced/{town.b.namespace}/main": {"name": "main", "inputs": {
                "parameters": [{"name": "x", "valueFrom": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}}]}}}},
        }), own),
    Way("the label of a Kubeflow run of team B's", "no value of team B's",
        run("kfp", lambda town: {"labels": {"pipeline/runid": town.uids["finished"]}}), nothing_of_theirs),
    Way("links in tags, titles and what a step says", ITS_OWN,
        run("links", lambda town: {
            "outputs": {"parameters": [{"name": "seen", "value": f"View run at {town.near.url}"}]},
            "meta": {"annotations": {"pipetrail.dev/tags": f'{{"mlflow.source.name": "{town.near.url}"}}',
                                     "workflows.argoproj.io/title": town.near.url}}}), own),
)  # fmt: skip
