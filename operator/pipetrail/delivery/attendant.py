"""The attendant: looks after one target.

It resolves the references, makes the connection, asks the tracker who it is, and then lets the lane run. While
something is wrong it looks again every 30 s, else every 5 minutes, so a rotated Secret or a mended tracker needs no
restart and no watch on Secrets. It looks at once when the lane's breaker opens or a run gets through again.
"""

import asyncio
from typing import Final

from pipetrail import observe, targets
from pipetrail.api import ConfigMapKeyRef, SecretKeyRef
from pipetrail.delivery.courier import Courier
from pipetrail.delivery.ledger import Ledger
from pipetrail.delivery.references import RefError, resolved
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.status import StatusWriter
from pipetrail.kube import Kube, KubeError
from pipetrail.settings import Settings
from pipetrail.targets.addresses import Addresses
from pipetrail.targets.target import Retry, TargetError

LOOK_TROUBLED_S: Final = 30.0
LOOK_HEALTHY_S: Final = 300.0


class Attendant:
    """What looking after a target takes; it holds nothing of any target itself."""

    def __init__(
        self, kube: Kube, ledger: Ledger, settings: Settings, addresses: Addresses, status: StatusWriter
    ) -> None:
        self._kube = kube
        self._ledger = ledger
        self._settings = settings
        self._addresses = addresses
        self._status = status

    async def serve(self, seat: Seat) -> None:
        """Look after a target and let its lane run, until cancelled."""
        lane = asyncio.create_task(seat.lane.run(), name=f"lane {seat.ref}")
        try:
            while True:
                seat.stir.clear()  # before the look: an edit or a trouble that comes during it asks for another
                try:
                    healthy = await self._attend(seat)
                except Exception as error:  # noqa: BLE001  an attendant that dies would leave its target alone for ever
                    observe.count("handler_errors")
                    observe.log().error("target not looked after", target=str(seat.ref), error=observe.where(error))
                    healthy = False
                try:
                    async with asyncio.timeout(LOOK_HEALTHY_S if healthy else LOOK_TROUBLED_S):
                        await seat.stir.wait()
                except TimeoutError:
                    pass
        finally:
            lane.cancel()
            await asyncio.wait([lane], timeout=5)

    async def _attend(self, seat: Seat) -> bool:
        """One look at a target: true if it works. Never raises: what is wrong becomes a condition."""
        if seat.trouble is not None:
            trouble, seat.trouble = seat.trouble, None
            await self._status.say(seat, trouble.reason, trouble.message)
            # What the tracker refused a moment ago it will refuse again: give it its 30 s.
            return False
        if seat.spec.suspend:
            seat.lane.halt()
            await self._status.say(seat, "Suspended", "spec.suspend is true: runs wait, nothing is sent")
            return True
        found = seat.found
        text: list[str] = []

        async def resolve(ref: SecretKeyRef | ConfigMapKeyRef) -> str:
            text.append(await resolved(self._kube, seat.ref.namespace or self._settings.namespace, ref))
            return text[-1]

        try:
            connected = await targets.connect(found.spec.backend, resolve, self._site(seat))
        except RefError as error:
            # Without its Secret a target must not go on with what the Secret held.
            seat.courier = None
            seat.lane.halt()
            await self._status.say(seat, error.reason, str(error), resolved=False)
            return False
        except KubeError as error:
            observe.log().warning("references not read", target=str(seat.ref), cause=str(error))
            if seat.courier is None:
                await self._status.say(
                    seat, "Pending", f"the API server did not give what it refers to: {error}", resolved=False
                )
            return False
        except TargetError as error:
            await self._status.say(seat, error.reason, error.message)
            return False
        made_of = (found.spec.backend, tuple(text))
        if seat.target is not None and seat.courier is not None and seat.made_of == made_of:
            await connected.close()
            connected = seat.target  # nothing changed: calls under way keep their connection
        version = seat.version
        try:
            version = (await connected.check()).version
        except Retry as error:
            # It may be back any moment, and lane's breaker probes more often than we look: let it.
            healthy, reason, message = False, "Unreachable", error.message
        except TargetError as error:
            seat.courier = None
            seat.lane.halt()
            if connected is not seat.target:
                await connected.close()
            await self._status.say(seat, error.reason, error.message)
            return False
        except BaseException:
            if connected is not seat.target:
                await connected.close()
            raise
        else:
            healthy, reason, message = True, "Ready", "runs are recorded as they complete"
        if (seat.found.uid, seat.found.generation) != (found.uid, found.generation):
            if connected is not seat.target:
                await connected.close()  # it leads to where the target led before an edit: look again, at once
            return False
        seat.version, seat.trouble = version, None  # a trouble that came meanwhile was the old connection's
        if connected is not seat.target:
            old, seat.target, seat.made_of = seat.target, connected, made_of
            seat.courier = Courier(connected, self._ledger, seat.lane.limiter, observe.count)
            if old is not None:
                await old.close()
        if seat.lane.halted or (healthy and not seat.said_ready):
            seat.lane.resume()  # not at each look: the tracker may answer us, and still take no run
        await self._status.say(seat, reason, message)
        return healthy

    def _site(self, seat: Seat) -> targets.Site:
        return targets.Site(
            namespace=seat.ref.namespace, tensorboard_root=self._settings.tensorboard_root, addresses=self._addresses
        )
