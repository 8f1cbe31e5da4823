"""What team A writes into TrackedRuns, though no role of ours lets it create one or write its status."""

from collections.abc import Callable
from typing import Any, Final

from tests.cluster.tenants.objects import path
from tests.cluster.tenants.town import Town
from tests.cluster.tenants.ways import REFUSED, Does, Way, refused

from pipetrail import api
from pipetrail.kube import ApiError


async def edits_spec(town: Town) -> Any:
    await town.a.reaches("honest")
    name = (await town.a.tracked("honest"))["metadata"]["name"]
    there = f"{path('trackedruns', town.a.namespace)}/{name}"
    try:
        return await town.a.kube.patch(there, {"spec": {"experiment": "team-b/finished", "policy": {"redact": None}}})
    except ApiError as error:
        return error


def forges(of: str, target: Callable[[Town], api.TargetRef], phase: str, *, attempt: int = 1) -> Does:
    """A TrackedRun in A's namespace for B's run, with the very key that the tracker has it under."""

    async def does(town: Town) -> Any:
        true = (await town.b.tracked(of))["spec"]
        ref = target(town)
        spec = {**true, "target": api.to_json(ref), "attempt": attempt}
        name = api.tracked_run_name(of, true["run"]["uid"], ref, attempt)
        body = {"apiVersion": api.API_VERSION, "kind": "TrackedRun", "metadata": {"name": name}, "spec": spec}
        made = await town.a.make("trackedruns", body)
        assert not isinstance(made, ApiError), made
        there = f"{path('trackedruns', town.a.namespace)}/{name}"
        return await town.a.kube.patch(f"{there}/status", {"status": {"phase": phase}})

    return does


def of_b(town: Town) -> api.TargetRef:
    return api.TargetRef(kind="TrackingTarget", name="mlflow", namespace=town.b.namespace)


def of_all(town: Town) -> api.TargetRef:
    return api.TargetRef(kind="ClusterTrackingTarget", name=f"shared-{town.mark}")


async def unread(town: Town, made: Any) -> str:
    there = await town.a.get("trackedruns", made["metadata"]["name"])
    return "not read" if there["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"] else "written"


async def goes_on(town: Town, _: Any) -> str:
    said = await town.b.reaches("live", f"shared-{town.mark}")
    (held,) = [h for h in await town.held(town.shared_server) if h.tags["pipetrail.run"] == "live"]
    return "team B's run goes on" if (said, held.status) == ("Synced", "Finished") else f"{said}, {held.status}"


async def left_open(town: Town, made: Any) -> str:
    said = (await town.a.settled(made["metadata"]["name"]))["phase"]
    (held,) = [h for h in await town.held(town.shared_server) if h.tags["pipetrail.run"] == "vanished"]
    as_it_was = (said, held.status) == ("Stopped", "Running")
    return "team B's run is left as it is" if as_it_was else f"{said}, {held.status}"


async def points_at_theirs(town: Town) -> Any:
    """Its own TrackedRun in the shared tracker: Failed, with B's run as handle."""
    shared = f"shared-{town.mark}"
    mine, theirs = await town.a.tracked("honest", shared), await town.b.tracked("finished", shared)
    there = f"{path('trackedruns', town.a.namespace)}/{mine['metadata']['name']}"
    named = {k: theirs["status"][k] for k in ("externalId", "experimentId", "url")}
    made = await town.a.kube.patch(f"{there}/status", {"status": {"phase": "Failed", "digest": "x", **named}})
    return {**made, "true": mine["status"]["externalId"]}


async def own_handle(town: Town, made: Any) -> str:
    there = f"{path('trackedruns', town.a.namespace)}/{made['metadata']['name']}"
    await town.a.kube.patch(there, {"metadata": {"annotations": {api.RESEND_ANNOTATION: "now"}}})
    said = await town.a.settled(made["metadata"]["name"], "Synced")
    return "sent again to its own run" if said["externalId"] == made["true"] else str(said)


WAYS: Final = (
    Way("an edit of a TrackedRun's spec (policy, experiment)", REFUSED, edits_spec, refused),
    Way("a TrackedRun that names team B's run and target", "not read", forges("finished", of_b, "Tracking"), unread,
        away=True),
    Way("a TrackedRun of a shared target for team B's live run, as settled", "team B's run goes on",
        forges("live", of_all, "Synced", attempt=9), goes_on, away=True),
    Way("a TrackedRun of a shared target for a run of team B's that is gone", "team B's run is left as it is",
        forges("vanished", of_all, "Tracking"), left_open, away=True),
    Way("the id of team B's tracker run in its own TrackedRun, and resend", "sent again to its own run",
        points_at_theirs, own_handle, away=True),
)  # fmt: skip
