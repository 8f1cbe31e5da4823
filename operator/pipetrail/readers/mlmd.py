"""The reader of KFP's metadata store (MLMD): a whole pipeline run in four calls, over one connection for all runs.

The context of the run by its type and name, its executions, their events, the artifacts of these: what a cached task
shows belongs to another run, and only the events say so (sources.md §4.5). Of a run that is read again only what
changed is asked for. Whatever the store does, the answer is a :class:`~pipetrail.sources.kfp_v2.metadata.Metadata`:
calls, bytes, values and seconds are bounded, and while the store is away one call in ten seconds finds that out.

MLMD knows no tenants: anyone who knows a run's id may ask for it, and a label says which id a Workflow has. So nothing
is given of a run whose context names another namespace than the Workflow's (trap 79).
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Final, TypeVar

import grpc
import grpc.aio

from pipetrail.formats.protobuf import Budget, Malformed, TooMuch
from pipetrail.readers import mlmd_messages as messages
from pipetrail.record import Frozen
from pipetrail.sources.kfp_v2.metadata import Event, Execution, Metadata, NoMetadata, RunMetadata, StoredArtifact

SERVICE: Final = "/ml_metadata.MetadataStoreService/"
IDS_AT_ONCE: Final = 500  # neither events nor artifacts by id come in pages: each call's answer is one message
KEPT_RUNS: Final = 64
KEPT_BYTES: Final = 32 << 20

_STORE: Final = "KFP's metadata store"
_BIG: Final = 256 << 10
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,62}")  # a label's value
T = TypeVar("T")


class Limits(Frozen, frozen=True):
    """Bounds of one reading of one run; beyond them the Workflow alone tells."""

    executions: int = 5_000
    events: int = 50_000
    artifacts: int = 20_000
    values: int = 500_000  #: properties, and all that stands inside them
    message_bytes: int = 32 << 20
    bytes: int = 64 << 20
    call_s: float = 10.0
    all_s: float = 60.0
    at_once: int = 4  #: runs; the others wait their turn
    pause_s: float = 10.0  #: after a failure: nobody asks meanwhile


DEFAULT: Final = Limits()


class _Kept(Frozen, frozen=True):
    """What is known of a run, for the next reading of it."""

    context: messages.Context
    run: RunMetadata
    size: int


class _Gives(Exception):
    """The reading ends here, without metadata."""

    def __init__(self, found: NoMetadata) -> None:
        super().__init__(found.reason)
        self.found = found


class Mlmd:
    """A client of the store at `address` (host:port, plain text). Connects when first asked; `close` it.

    `called` is told the name of each call that is made.
    """

    def __init__(
        self, address: str, *, limits: Limits = DEFAULT, called: Callable[[str], None] = lambda _: None
    ) -> None:
        self.limits = limits
        self._address = address
        self._called = called
        self._channel: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(limits.at_once)
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._away: tuple[float, NoMetadata] | None = None

    async def close(self) -> None:
        """Close the connection and forget what was read."""
        self._kept.clear()
        self._drop()
        await asyncio.gather(*self._closing)

    async def run(self, namespace: str, run_id: str) -> Metadata:
        """All of the run `run_id`, which the store must say to be in `namespace`. Never raises for what comes back."""
        if not _RUN_ID.fullmatch(run_id):
            return NoMetadata(reason="MlmdRunUnknown", message="the Workflow's label pipeline/runid holds no run's id")
        try:
            async with asyncio.timeout(self.limits.all_s), self._slots:
                if self._away is not None and monotonic() < self._away[0]:
                    return self._away[1]
                kept = self._kept.pop((namespace, run_id), None)
                made = await _Reading(self, namespace, run_id, kept).run()
        except _Gives as gives:
            return gives.found
        except TimeoutError:
            return NoMetadata(
                reason="MlmdSlow", message=f"{_STORE} did not tell all within {self.limits.all_s:.0f} s", again=True
            )
        except Malformed:
            return NoMetadata(reason="MlmdGarbage", message=f"what {_STORE} answers is not MLMD's protocol", again=True)
        except TooMuch:
            return too_much(f"{self.limits.values} values or deeper ones than are read")
        self._keep((namespace, run_id), made)
        return made.run

    async def call(self, method: str, request: bytes) -> bytes:
        """One call of the service: the bytes of its answer."""
        if self._channel is None:
            self._channel = self._connected()
        self._called(method)
        try:
            send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(SERVICE + method)
            answer = await send(request, timeout=self.limits.call_s)
        except grpc.aio.AioRpcError as error:
            raise _Gives(self._failed(error.code())) from None
        self._away = None
        return answer

    def _connected(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            self._address,
            options=[
                ("grpc.max_receive_message_length", self.limits.message_bytes),
                ("grpc.enable_http_proxy", 0),  # it is a Service of the cluster, and a proxy is for what is outside
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 500),
                ("grpc.max_reconnect_backoff_ms", 5_000),
            ],
        )

    def _drop(self) -> None:
        """Leave the connection; what others have under way on it may end."""
        channel, self._channel = self._channel, None
        if channel is not None:
            closing = asyncio.create_task(channel.close(self.limits.call_s))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _failed(self, code: grpc.StatusCode) -> NoMetadata:
        # The details of an error are the server's, or of whoever stands in its place: they go nowhere.
        match code:
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return too_much(f"{self.limits.message_bytes >> 20} MiB in one answer")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                self._drop()  # its machine may be gone without a word
                return self._pause("MlmdSlow", f"did not answer within {self.limits.call_s:.0f} s")
            case grpc.StatusCode.UNAVAILABLE:
                return self._pause("MlmdUnreachable", "can't be reached")
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return self._pause("MlmdForbidden", "refuses the operator: a policy of the mesh, maybe")
            case _:
                return NoMetadata(reason="MlmdRefused", message=f"{_STORE} answers {code.name}", again=True)

    def _pause(self, reason: str, what: str) -> NoMetadata:
        """No other run waits for a store that is away."""
        said = NoMetadata(reason=reason, message=f"{_STORE} {what}", again=True)
        self._away = (monotonic() + self.limits.pause_s, said)
        return said

    def _keep(self, key: tuple[str, str], made: _Kept) -> None:
        self._kept[key] = made
        while len(self._kept) > KEPT_RUNS or sum(kept.size for kept in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)


def too_much(what: str) -> NoMetadata:
    """Of a run that is bigger than what is read."""
    return NoMetadata(reason="MlmdTooMuch", message=f"{_STORE} has more of the run than is read: {what}")


class _Reading:
    """One reading of one run; `kept` is what an earlier one found."""

    def __init__(self, client: Mlmd, namespace: str, run_id: str, kept: _Kept | None) -> None:
        self._client = client
        self._limits = client.limits
        self._namespace = namespace
        self._run_id = run_id
        self._kept = kept
        self._budget = Budget(client.limits.values)
        self._bytes = 0

    async def run(self) -> _Kept:
        before = self._kept.run if self._kept else RunMetadata(run_id=self._run_id)
        context = self._kept.context if self._kept else await self._context()
        executions = await self._executions(context.id)
        if not executions:
            raise _Gives(NoMetadata(reason="MlmdEmpty", message=f"{_STORE} has no execution of the run"))
        known = {e.id: e for e in before.executions}
        changed = [e.id for e in executions if known.get(e.id) != e]
        fresh = await self._events(changed)
        events = (*(e for e in before.events if e.execution_id not in set(changed)), *fresh)
        stored = {a.id: a for a in before.artifacts}
        # A retried launcher writes into the artifacts that its first try made.
        wanted = {e.artifact_id for e in fresh if e.artifact_id not in stored or e.kind == "OUTPUT"}
        stored |= {a.id: a for a in await self._artifacts(sorted(wanted))}
        run = RunMetadata(
            run_id=self._run_id, namespace=context.namespace, executions=tuple(executions),
            artifacts=tuple(stored.values()), events=events,
        )  # fmt: skip
        return _Kept(context=context, run=run, size=self._bytes + (self._kept.size if self._kept else 0))

    async def _context(self) -> messages.Context:
        answer = await self._call("GetContextByTypeAndName", messages.ask_context(self._run_id))
        context = messages.context(answer, self._budget)
        if context is None:
            message = f"{_STORE} knows no run of this id: none of its tasks has begun, or this KFP keeps none there"
            raise _Gives(NoMetadata(reason="MlmdRunUnknown", message=message))
        if context.name != self._run_id or context.type not in ("", messages.RUN_TYPE):
            raise _Gives(NoMetadata(reason="MlmdOtherContext", message=f"{_STORE} answers with something else"))
        if context.namespace != self._namespace:
            # Which other one is none of this namespace's business.
            message = f"{_STORE} has a run of this id in another namespace: nothing of it is taken"
            raise _Gives(NoMetadata(reason="MlmdOtherNamespace", message=message))
        return context

    async def _executions(self, context_id: int) -> list[Execution]:
        found: dict[int, Execution] = {}
        token = ""
        for _ in range(self._limits.executions // messages.PAGE):
            answer = await self._call("GetExecutionsByContext", messages.ask_executions(context_id, token))
            page, token = await self._aside(messages.executions, answer)
            found |= {e.id: e for e in page}
            if not token:
                return list(found.values())
        raise _Gives(too_much(f"{self._limits.executions} executions"))

    async def _events(self, execution_ids: Sequence[int]) -> list[Event]:
        found: list[Event] = []
        for ids in _parts(execution_ids):
            answer = await self._call("GetEventsByExecutionIDs", messages.ask_events(ids))
            asked = set(ids)
            at_most = self._limits.events - len(found) + 1
            read = await self._aside(partial(messages.events, at_most=at_most), answer)
            found += (e for e in read if e.execution_id in asked)
            if len(read) == at_most:
                raise _Gives(too_much(f"{self._limits.events} events"))
        return found

    async def _artifacts(self, artifact_ids: Sequence[int]) -> list[StoredArtifact]:
        if len(artifact_ids) > self._limits.artifacts:
            raise _Gives(too_much(f"{self._limits.artifacts} artifacts"))
        found: list[StoredArtifact] = []
        for ids in _parts(artifact_ids):
            answer = await self._call("GetArtifactsByID", messages.ask_artifacts(ids))
            asked = set(ids)
            found += (a for a in await self._aside(messages.artifacts, answer) if a.id in asked)
        return found

    async def _call(self, method: str, request: bytes) -> bytes:
        answer = await self._client.call(method, request)
        self._bytes += len(answer)
        if self._bytes > self._limits.bytes:
            raise _Gives(too_much(f"{self._limits.bytes >> 20} MiB"))
        return answer

    async def _aside(self, read: Callable[[bytes, Budget], T], answer: bytes) -> T:
        """What `read` makes of a big answer is made beside the event loop."""
        if len(answer) < _BIG:
            return read(answer, self._budget)
        return await asyncio.to_thread(read, answer, self._budget)


def _parts(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[at : at + IDS_AT_ONCE] for at in range(0, len(ids), IDS_AT_ONCE))
