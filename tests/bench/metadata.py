"""How many calls of KFP's metadata store a run costs, counted by the genuine store itself."""

import asyncio
from collections import Counter
from typing import Final

from tests.bench.place import Place
from tests.bench.table import Row
from tests.e2e.stage import until
from tests.real import mlmd
from tests.real.kfp import KFP, RUNS, as_it_happened

TARGET: Final = "kfp"


async def measure(place: Place) -> list[Row]:
    """Four runs are read once, after they ended (the operator starts then); then four as they happen."""
    server = place.tracker()
    folders = [as_it_happened(name, place.folder / "kfp") for name in RUNS]
    calls: dict[str, Counter[str]] = {}
    connections = 0
    for how in ("once", "live"):
        file = mlmd.copied(KFP / "mlmd.sqlite", place.folder / f"mlmd-{how}.sqlite", {"kubeflow": place.namespace})
        with mlmd.serving(file) as store:
            operator = place.operator(f"metadata-{how}", "--mlmd", store.address)
            await place.stage.target(TARGET, server.url)
            if how == "live":
                await asyncio.to_thread(operator.start, wait_s=120.0)
            try:
                place.say(f"metadata: {len(RUNS)} runs of KFP, {how}")
                names = [f"{name}-{how}" for name in RUNS]
                speed = float("inf") if how == "once" else 8.0
                async with asyncio.TaskGroup() as group:
                    for folder, run in zip(folders, names, strict=True):
                        group.create_task(place.stage.play(str(folder), run=run, speed=speed))
                if how == "once":
                    await asyncio.to_thread(operator.start, wait_s=120.0)
                await _synced(place, names)
                calls[how] = store.calls()
                connections = max(connections, len(store.connections()))
            finally:
                await asyncio.to_thread(operator.stop)
                await place.stage.delete_target(TARGET)
    return [
        Row(
            name="metadata", what="calls of KFP's metadata store per run, read once", budget=4, unit="",
            measured=calls["once"].total() / len(RUNS),
            note=f"per run: {_said(calls['once'])}; followed live at 8 times its pace: {_said(calls['live'])}",
        ),
        Row(
            name="connections", what="connections to KFP's metadata store", budget=1, unit="", measured=connections,
            note="all runs of one operator share it; the store holds what it held when the recorded runs had ended",
        ),
    ]  # fmt: skip


async def _synced(place: Place, names: list[str]) -> None:
    async def synced() -> bool:
        found = await place.stage.tracked(target=TARGET)
        done = {t["spec"]["run"]["name"] for t in found if (t.get("status") or {}).get("phase") == "Synced"}
        return done >= set(names)

    await until(f"{', '.join(names)} are delivered", synced, within_s=180, every_s=1.0)


def _said(found: Counter[str]) -> str:
    return ", ".join(f"{what} {n / len(RUNS):.3g}" for what, n in found.most_common()) or "none"
