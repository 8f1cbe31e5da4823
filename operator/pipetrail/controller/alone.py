"""An operator without shards: it looks after everything, once shards of before have let go."""

import asyncio
from collections.abc import Mapping
from typing import Final

from pipetrail import observe
from pipetrail.controller import bookmarks
from pipetrail.controller.bookmarks import Versions
from pipetrail.controller.lease import Beside, Lease
from pipetrail.controller.stands import (
    ANNOTATION,
    POLL_S,
    Beginning,
    Stand,
    earliest,
    fresh,
    name_of,
    stand_of,
    text_of,
)
from pipetrail.kube import ApiError, KubeError
from pipetrail.shards import WHOLE

BLIND_S: Final = 60.0
"""Without the right to see the other shards' Leases an operator that is alone again waits this long: one that can read
its Lease lets go within 40 s, and one that can't has no Lease after 10."""


class Alone:
    """No shards: one operator with one Lease, or none. It waits for shards of before, if there were any."""

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease
        self._stand: str | None = None
        self.waits_for = ""
        self.idle = False

    async def permit(self) -> None:
        """The last thing before each call to a tracker."""
        if self._lease is not None:
            await self._lease.permit()

    async def begin(self) -> Beginning:
        """Wait until nobody else sends."""
        await self.permit()
        lease = self._lease
        if lease is None:
            return Beginning(share=WHOLE)
        start: list[Versions] = [bookmarks.read(lease.found)]
        before = stand_of(lease.found)
        if before is None:
            return Beginning(share=WHOLE, start_at=start[0])
        self._stand = text_of(Stand(shards=1, span=before.span))
        lease.leave = lambda: self.annotations({})
        await lease.say()
        try:
            for number in range(1, before.span):
                name = name_of(lease.name, number)
                start.append(fresh(await self._let_go(lease, name)))
        except ApiError as error:
            if error.status not in (401, 403):
                raise
            observe.log().warning("waiting for shards", seconds=BLIND_S, cause=f"no right to see their Leases: {error}")
            await asyncio.sleep(BLIND_S)
        self.waits_for, self._stand = "", ""
        return Beginning(share=WHOLE, start_at=earliest(start))

    async def _let_go(self, lease: Lease, name: str) -> Beside:
        while True:
            try:
                beside = await lease.beside(name)
                if not beside.live or (stand_of(beside.annotations) or Stand()).free:
                    return beside
                if self.waits_for != name:
                    self.waits_for = name
                    observe.log().warning("waiting for shards", lease=name, cause=f"{beside.holder} has it still")
            except KubeError as error:
                if isinstance(error, ApiError) and error.status in (401, 403):
                    raise
                observe.log().warning("waiting for shards", lease=name, cause=str(error))
            await asyncio.sleep(POLL_S)

    async def moved(self) -> None:
        """Never."""
        await asyncio.Event().wait()

    def began(self) -> None:
        """Watches and deliveries run."""

    def let_go(self, left: Versions) -> None:
        """Nothing to say."""

    def annotations(self, marks: Mapping[str, str]) -> dict[str, str]:
        """What the Lease carries: where the watches stand."""
        return {**marks, **({} if self._stand is None else {ANNOTATION: self._stand})}
