"""Troubles that last for a while: each is made to happen, and taken away when it is over."""

import asyncio
import json
import urllib.request
from typing import Any

from tests.chaos.house import TOKENS, House
from tests.chaos.steps import ApiRestart, Away, DiskFull, Rotate
from tests.e2e.stage import tool, until

Lasting = Away | ApiRestart | Rotate | DiskFull


async def happens(where: House, step: Lasting) -> str:
    """Returns when it is over; what it says is why it was left out, else nothing."""
    match step:
        case Away(killed=True, for_s=for_s):
            await asyncio.to_thread(where.mlflow.stop, kill=True)
            await asyncio.sleep(for_s)
            where.mlflow.start(bound=True)
            await asyncio.to_thread(where.mlflow.wait)
        case Away(trackers=trackers, for_s=for_s):
            for tracker in trackers:
                where.faults[tracker].away = True
            await asyncio.sleep(for_s)
            for tracker in trackers:
                where.faults[tracker].away = False
        case Rotate(for_s=for_s):
            where.faults["mlflow"].token = TOKENS[1]
            await asyncio.sleep(for_s)

            async def wrote() -> bool:
                await where.secret(TOKENS[1])
                return True

            await until("the Secret is written", wrote)
        case DiskFull(for_s=for_s):
            if where.disk is None:
                return f"left out: {step}: {where.no_disk}"
            await asyncio.to_thread(where.disk.fill)
            await asyncio.sleep(for_s)
            where.disk.free()
        case ApiRestart(compacted=compacted):
            if not where.cluster.ours:
                return f"left out: {step}: this API server is not ours"
            async with where.nothing_to_forget():
                if compacted:
                    await asyncio.to_thread(_compact)
                done = await asyncio.to_thread(tool, "restart", "kube-apiserver")
                assert done.returncode == 0, done.stderr
    return ""


def _compact() -> None:
    """Make etcd forget all that is not the present, by its own API."""
    shown = json.loads(tool("status", "-o", "json").stdout)
    address = next(part["address"] for part in shown["parts"] if part["part"] == "etcd")

    def ask(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{address}/v3/kv/{path}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    now = ask("range", {"key": "AA=="})["header"]["revision"]
    ask("compaction", {"revision": now, "physical": True})
