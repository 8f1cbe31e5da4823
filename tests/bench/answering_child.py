"""A tracker that answers at once and keeps nothing: MLflow's answers to what a delivery asks. Says its address."""

import asyncio
import itertools
import json
from typing import Any

from aiohttp import web

RUNS = itertools.count()


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    """The least that is an answer of MLflow's."""
    body: dict[str, Any] = json.loads(await request.read() or b"{}")
    info = {"run_id": str(body.get("run_id") or f"{next(RUNS):032x}"), "experiment_id": "1", "status": "RUNNING"}
    match request.path.rpartition("/api/2.0/mlflow/")[2]:
        case "experiments/get-by-name":
            found = {"experiment_id": "1", "name": "bench", "artifact_location": "mlflow-artifacts:/1"}
            return web.json_response({"experiment": {**found, "lifecycle_stage": "active"}})
        case "runs/create" | "runs/get":
            return web.json_response({"run": {"info": info, "data": {}}})
        case _:
            return web.json_response({})


async def main() -> None:
    """Serve until the process is ended."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
