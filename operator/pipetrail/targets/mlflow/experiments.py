"""MLflow's experiments by name: remembered once they are known, made where they lack, never restored."""

import asyncio
from typing import Any, Final

from pipetrail.targets.mlflow.answers import CreatedExperiment, OneExperiment
from pipetrail.targets.mlflow.answers import Experiments as Listed
from pipetrail.targets.mlflow.wire import Rejection, Wire
from pipetrail.targets.target import Refused, Retry

PAGE: Final = 1000
LOOKED_THROUGH: Final = 5000


class Experiments:
    """The experiments of one server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._ids: dict[str, str] = {}
        self._making = asyncio.Lock()

    async def known(self, name: str) -> str | None:
        """The id of the experiment `name`; None if there is none. A deleted one is :class:`Refused`."""
        if name in self._ids:
            return self._ids[name]
        try:
            found = await self._wire.call(
                "GET", "experiments/get-by-name", OneExperiment, query={"experiment_name": name}
            )
        except Rejection as refusal:
            if refusal.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise Refused("Rejected", f"MLflow does not look up experiment {name!r}: {refusal.text}") from None
        if found.experiment.lifecycle_stage != "active":
            raise deleted(name)
        self._ids[name] = found.experiment.experiment_id
        return found.experiment.experiment_id

    async def needed(self, name: str) -> str:
        """The same, made if it is not there. Its name is unique in MLflow, so a lost answer makes no second one."""
        if name in self._ids:
            return self._ids[name]
        async with self._making:
            there = await self.known(name)
            return await self._make(name) if there is None else there

    async def every(self) -> list[str]:
        """The ids of all experiments, to look for a run whose experiment was given another name."""
        ids: list[str] = []
        body: dict[str, Any] = {"max_results": PAGE, "view_type": "ALL"}
        while True:
            try:
                page = await self._wire.call("POST", "experiments/search", Listed, body=body)
            except Rejection as refusal:
                raise Refused("Rejected", f"MLflow does not list its experiments: {refusal.text}") from None
            ids += [e.experiment_id for e in page.experiments]
            if not page.next_page_token or not page.experiments or len(ids) >= LOOKED_THROUGH:
                return ids
            body["page_token"] = page.next_page_token

    async def is_deleted(self, experiment_id: str) -> bool:
        """True if someone deleted it (and with it its runs)."""
        try:
            found = await self._wire.call(
                "GET", "experiments/get", OneExperiment, query={"experiment_id": experiment_id}
            )
        except Rejection:
            return False
        return found.experiment.lifecycle_stage != "active"

    def forget(self, name: str) -> None:
        """What was known of it does not hold any more."""
        self._ids.pop(name, None)

    async def _make(self, name: str) -> str:
        try:
            made = await self._wire.call("POST", "experiments/create", CreatedExperiment, body={"name": name})
        except Rejection as refusal:
            if refusal.code != "RESOURCE_ALREADY_EXISTS":
                raise Refused("Rejected", f"MLflow does not take experiment {name!r}: {refusal.text}") from None
        else:
            self._ids[name] = made.experiment_id
            return made.experiment_id
        there = await self.known(name)
        if there is None:
            raise Retry("Unreachable", f"MLflow says that experiment {name!r} is there, and that it is not")
        return there


def deleted(name: str) -> Refused:
    """Someone deleted it, and did not mean it to come back."""
    return Refused(
        "ExperimentDeleted",
        f"someone deleted experiment {name!r} in MLflow: restore it there, or change the target's naming.experiment",
    )
