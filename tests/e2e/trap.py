"""Kills at chosen calls, seen by proxies: just before a call takes effect, just after, or with it taking effect late.

No switch in the product: the proxies before the API server, MLflow and Neptune see every call of the operator.
"""

import asyncio
import json
from collections import Counter
from typing import Literal, NamedTuple, Protocol

from tests.real.proxy import Action, CommitLater, Decide, Drop, Proxy, Seen, passing

Call = Literal["intent", "create", "opened", "log-batch", "settle", "neptune create", "neptune append"]
When = Literal["before", "after", "late"]
CALLS: tuple[Call, ...] = ("intent", "create", "opened", "log-batch", "settle", "neptune create", "neptune append")
BEGINS: tuple[Call, ...] = ("intent", "create", "opened", "neptune create")  # calls that only a run that begins makes


class Killed(Protocol):
    """Whoever makes the calls: an operator, or one of several."""

    def kill(self) -> None:
        """kill -9."""
        ...


class Moment(NamedTuple):
    """When to kill: at a call, or (null) at no particular one while many runs are in flight."""

    call: Call | None
    when: When = "before"

    def __str__(self) -> str:
        return (
            "many in flight"
            if self.call is None
            else f"{'with a late' if self.when == 'late' else f'just {self.when}'} {self.call}"
        )


def call_of(seen: Seen) -> Call | None:
    """Which of the calls that matter a request is."""
    if seen.method == "POST" and seen.path.endswith("/trackedruns"):
        return "intent"
    if seen.method == "POST" and seen.path.endswith("/runs/create"):
        return "create"
    if seen.method == "POST" and seen.path.endswith("/runs/log-batch"):
        return "log-batch"
    if seen.method == "POST" and seen.path.endswith("/v1/experiments"):
        return "neptune create"
    if seen.method == "POST" and seen.path.endswith("/attributes/operations"):
        return "neptune append" if b"logFloats" in seen.body else None
    if seen.method == "PATCH" and "/trackedruns/" in seen.path:
        phase = (json.loads(seen.body).get("status") or {}).get("phase")
        return "opened" if phase == "Tracking" else "settle" if phase == "Synced" else None
    return None


class Trap:
    """Sees all calls of the operator, knows what is in flight, and kills at the moment that it is set for."""

    def __init__(self, operator: Killed) -> None:
        self._operator = operator
        self.set_for: Moment | None = None
        self.sprung = asyncio.Event()
        self.late: list[tuple[Call, str, asyncio.Event]] = []
        self.under_way: dict[tuple[int, int], str] = {}
        self.intended: set[str] = set()
        self.settled: set[str] = set()
        self.calls: Counter[str] = Counter()

    def watch(self, proxy: Proxy, otherwise: Decide = passing) -> None:
        """Be set before all calls through `proxy`; what happens to those that spring no trap says `otherwise`."""
        mark = id(proxy)

        def decide(seen: Seen) -> Action:
            call = call_of(seen)
            moment = self.set_for
            if moment is None or call is None or moment.call != call or moment.when == "after":
                return otherwise(seen)
            self.spring(f"{call} {self._about(seen)}")
            if moment.when == "before":
                return Drop()
            when = asyncio.Event()
            self.late.append((call, self._about(seen), when))
            return CommitLater(when)

        def on_request(seen: Seen, _status: int) -> None:
            if (call := call_of(seen)) is not None:
                self.under_way[mark, seen.number] = call

        def on_response(seen: Seen, status: int) -> None:
            call = call_of(seen)
            self.under_way.pop((mark, seen.number), None)
            if call is None or status not in (200, 201):
                return
            self.calls[call] += 1
            name = self._about(seen)
            if call == "intent":
                self.intended.add(name)
            elif call == "settle":
                self.settled.add(name)
            for late, about, when in self.late:
                if late == call and about == name:
                    when.set()  # the next process has done what the last one's call will now do again
            moment = self.set_for
            if moment is not None and moment.call == call and moment.when == "after":
                self.spring(f"{call} {name}")

        proxy.decide, proxy.on_request, proxy.on_response = decide, on_request, on_response

    def spring(self, what: str) -> None:
        self._operator.kill()
        self.set_for = None
        self.what = what
        self.sprung.set()

    @property
    def in_flight(self) -> int:
        """Runs with an intent for some tracker that is not settled."""
        return len({tracked.rpartition("-")[0] for tracked in self.intended - self.settled})

    def _about(self, seen: Seen) -> str:
        body = json.loads(seen.body)
        match call_of(seen):
            case "intent":
                return str(body["metadata"]["name"])
            case "create":
                return next(t["value"] for t in body["tags"] if t["key"] == "pipetrail.key")
            case "log-batch":
                return str(body["run_id"])
            case "neptune create":
                return str(body.get("customId"))
            case "neptune append":
                return seen.query
            case _:
                return seen.path.split("/")[-2]
