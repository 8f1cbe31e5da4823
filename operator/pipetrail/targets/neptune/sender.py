"""Sending operations to one run so that all of them land, or what does not is named.

Neptune answers 200 to a request of which it took only some operations, and says why in words alone. So what was refused
is found by reading the run back. The same look tells an attribute that was lost on the way.

A series takes points in the order of their steps, or takes them twice: nobody could ask a server. So where points came
twice or are refused, the series is read, and written anew in one request: what was there and what was missing, one
point of each step.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from pipetrail.targets.neptune import operations as ops
from pipetrail.targets.neptune import wire
from pipetrail.targets.neptune.held import by_path
from pipetrail.targets.neptune.process import Process, Rejection
from pipetrail.targets.target import Change, Refused, Retry

ISOLATING_MOST: Final = 200
SHOWN_AFTER_S: Final = (0.0, 0.2, 0.5, 1.0)
"""When an attribute is looked for that a request without an error should have set; a server may be slow to show it."""
POINTS_MOST: Final = 1_000_000
DOUBT_AFTER_S: Final = 3.0
"""After an append with an unknown end: time in which it may still take effect before it is looked for."""


class Sender:
    """Talks to runs by Neptune's own id of them."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def attributes(self, run: str) -> wire.Found:
        """All attributes of a run."""
        found = await self.ask(wire.Attributes(run=run))
        assert isinstance(found, wire.Found)
        return found

    async def series(self, run: str, path: str) -> list[ops.Point]:
        """All points of a series."""
        points: list[ops.Point] = []
        while True:
            page = await self.ask(wire.Series(run=run, path=path, offset=len(points)))
            assert isinstance(page, wire.Points)
            points += page.points
            if not page.points or len(points) >= page.total:
                return points
            if len(points) >= POINTS_MOST:
                raise Refused("TooManyPoints", f"{path} has more than {POINTS_MOST} points: it is not read")

    async def ask(self, call: wire.Call) -> wire.Result:
        """A call that the server has no reason to refuse."""
        try:
            return await self._process.call(call)
        except Rejection as refusal:
            raise Refused("Rejected", f"Neptune refuses: {refusal.text}") from None

    async def send(self, run: str, operations: Sequence[wire.Operation]) -> tuple[Change, ...]:
        """All of `operations`; what Neptune does not take comes back as changes."""
        taken: list[wire.Operation] = []
        suspects: list[wire.Operation] = []
        for request in ops.requests(operations):
            errors = await self._execute(run, request)
            (suspects if errors else taken).extend(request)
        lost = await self._not_shown(run, taken)
        if lost:
            what = f"{lost[0].path} and {len(lost) - 1} more" if len(lost) > 1 else lost[0].path
            raise Retry("LostWrites", f"Neptune took {what} and does not have it", doubtful=True)
        return await self._isolated(run, suspects) if suspects else ()

    async def mend(self, run: str, paths: Sequence[str]) -> None:
        """Take away points of these series that are there twice."""
        there = by_path((await self.attributes(run)).attributes)
        for path in there.keys() & set(paths):
            held = await self.series(run, path)
            if ops.doubled(held):
                await self._rewrite(run, path, ops.mended((), held))

    async def _execute(self, run: str, request: Sequence[wire.Operation]) -> tuple[str, ...]:
        """The errors that Neptune names, of a request that it took or refused."""
        try:
            said = await self._process.call(wire.Operate(run=run, operations=tuple(request)))
        except Rejection as refusal:
            return (refusal.text,)
        except Retry as trouble:
            if trouble.doubtful and any(isinstance(o, wire.Append) for o in request):
                after_s = max(DOUBT_AFTER_S, trouble.after_s or 0.0)
                raise Retry(trouble.reason, trouble.message, after_s=after_s, doubtful=True) from None
            raise
        assert isinstance(said, wire.Errors)
        return said.errors

    async def _not_shown(self, run: str, operations: Sequence[wire.Operation]) -> list[wire.Operation]:
        waiting = list(operations)
        for pause_s in SHOWN_AFTER_S:
            if not waiting:
                break
            await asyncio.sleep(pause_s)
            waiting = ops.lacking(waiting, by_path((await self.attributes(run)).attributes))
        return waiting

    async def _isolated(self, run: str, suspects: Sequence[wire.Operation]) -> tuple[Change, ...]:
        """Of what was refused as a whole or in part: what did not land is sent alone, and named if it can't be."""
        there = by_path((await self.attributes(run)).attributes)
        series: dict[str, list[ops.Point]] = {}
        rest: list[wire.Operation] = []
        for operation in suspects:
            if isinstance(operation, wire.Append):
                series.setdefault(operation.path, []).extend(operation.points)
            elif ops.lacking([operation], there):
                rest.append(operation)
        changes = []
        for n, operation in enumerate(rest):
            errors = await self._execute(run, [operation]) if n < ISOLATING_MOST else ("refused with others",)
            changes += [ops.refused(operation, errors[0])] if errors else []
        for n, (path, points) in enumerate(series.items()):
            if n >= ISOLATING_MOST:
                changes.append(ops.refused(wire.Append(path=path, points=()), "refused with others"))
                continue
            changes += await self._points(run, path, points, has=path in there)
        return tuple(changes)

    async def _points(
        self, run: str, path: str, wanted: Sequence[ops.Point], *, has: bool
    ) -> Sequence[Change]:  # fmt: skip
        held = await self.series(run, path) if has else []
        missing = ops.missing(wanted, held)
        if not missing:
            return ()
        errors = (
            await self._rewrite(run, path, ops.mended(missing, held))
            if held
            else await self._append(run, path, missing)
        )
        if not errors:
            return ()
        left = ops.missing(missing, await self._held_now(run, path))
        count = f" ({len(left)} points)" if len(left) > 1 else ""
        return (ops.refused(wire.Append(path=path, points=()), errors[0] + count),) if left else ()

    async def _held_now(self, run: str, path: str) -> list[ops.Point]:
        there = by_path((await self.attributes(run)).attributes)
        return await self.series(run, path) if path in there else []

    async def _append(self, run: str, path: str, points: Sequence[ops.Point]) -> tuple[str, ...]:
        errors: tuple[str, ...] = ()
        for request in ops.requests([wire.Append(path=path, points=tuple(points))]):
            errors += await self._execute(run, request)
        return errors

    async def _rewrite(self, run: str, path: str, points: Sequence[ops.Point]) -> tuple[str, ...]:
        """If we are stopped halfway, the next read says what is missing."""
        first, *rest = ops.requests([wire.Append(path=path, points=tuple(points))])
        errors = await self._execute(run, (wire.Delete(path=path), *first))
        for request in rest:
            errors += await self._execute(run, request)
        return errors
