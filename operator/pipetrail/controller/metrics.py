"""The page /metrics: what observe counted, and how the operator stands, in Prometheus' words.

Names follow its conventions: base units in the name, ``_total`` for what only grows (the library adds it). Labels are
few by construction: kinds, verbs and codes from our own code, and targets, of which an admin makes as many as there
are; never a run. The label is `target_namespace`, because Prometheus itself sets `namespace`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pipetrail import observe
from pipetrail.controller.stream import Pulse
from pipetrail.delivery.copies import PLACES
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.record import Frozen

PHASES: Final = ("Pending", "Tracking", "Synced", "Failed", "Stopped", "Skipped")
BREAKERS: Final = ("Closed", "HalfOpen", "Open")


class Total(Frozen, frozen=True):
    """One of `observe.counts` as a counter. `fixed` are values of the first labels, for names that stand for them."""

    name: str
    metric: str
    help: str
    labels: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()


_EVENTS: Final = "Watch events that were looked at."
TOTALS: Final = (
    Total(name="points", metric="pipetrail_points", help="Metric values that trackers took."),
    Total(name="runs_synced", metric="pipetrail_runs_synced", help="Runs settled in a target, again ones included."),
    Total(name="retries", metric="pipetrail_retries", help="Deliveries that failed and are tried again."),
    Total(name="failed", metric="pipetrail_dead_letters", help="Runs given up for a target: TrackedRuns made Failed."),
    Total(name="changes", metric="pipetrail_changes", help="Values that a tracker holds otherwise than the run did."),
    Total(name="lost", metric="pipetrail_lost", help="Runs whose end nobody could see: closed as killed."),
    Total(name="recalled", metric="pipetrail_recalled", help="Runs that vanished unseen, as Argo's archive has them."),
    Total(
        name="outbox_refused", metric="pipetrail_outbox_refused", labels=("reason",),
        help="Finished records of which no copy could be kept, once a run and target.",
    ),
    Total(name="outbox_torn", metric="pipetrail_outbox_torn", help="Copies that were not what was written: not sent."),
    Total(name="doubles", metric="pipetrail_doubles_removed", help="Second tracker runs of a run, deleted again."),
    Total(name="watch_restarts", metric="pipetrail_watch_restarts", help="Watches that ended before their time."),
    Total(name="watch_lines_unread", metric="pipetrail_watch_unread", help="Watch events that could not be read."),
    Total(name="handler_errors", metric="pipetrail_handler_errors", help="Errors of our own, logged with their place."),
    Total(
        name="events_workflow", metric="pipetrail_watch_events", help=_EVENTS, labels=("kind",), fixed=("Workflow",)
    ),
    Total(name="events_pod", metric="pipetrail_watch_events", help=_EVENTS, labels=("kind",), fixed=("Pod",)),
    Total(
        name="events_result", metric="pipetrail_watch_events", help=_EVENTS, labels=("kind",),
        fixed=("WorkflowTaskResult",),
    ),
    Total(
        name="api_write", metric="pipetrail_api_writes", help="Writes to the API server.", labels=("verb", "resource")
    ),
    Total(
        name="tracker_answer", metric="pipetrail_tracker_requests", labels=("backend", "code"),
        help="Requests to trackers by the code of the answer; none: there was no answer.",
    ),
    Total(name="mlmd_call", metric="pipetrail_mlmd_requests", help="Calls to KFP's MLMD.", labels=("method",)),
)  # fmt: skip
NOT_SHOWN: Final = frozenset({"tracker_calls"})
"""Counted for tests alone: shown as the answers that came."""


class Stand(Frozen, frozen=True):
    """What is asked for how the operator stands; `dispatch` is null until it has begun."""

    dispatch: Dispatch | None
    pulses: tuple[Pulse, ...]
    lease_held: bool


class Page(Collector):
    """Reads everything when it is asked, in the loop that changes it."""

    def __init__(self, stand: Callable[[], Stand]) -> None:
        self._stand = stand

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from _totals(observe.counts)
        yield _lags(observe.lags)
        stand = self._stand()
        yield GaugeMetricFamily(
            "pipetrail_lease_held", "1 while this operator may send.", value=float(stand.lease_held)
        )
        yield from _watches(stand.pulses)
        if stand.dispatch is not None:
            yield _runs(stand.dispatch)
            yield GaugeMetricFamily(
                "pipetrail_orphans_held", "Runs that are gone and not closed, as too many went at once.",
                value=stand.dispatch.orphans.held,
            )  # fmt: skip
            yield from _outbox(stand.dispatch)
            yield from _targets(stand.dispatch)


def registry(page: Page) -> CollectorRegistry:
    """Our page, and what the library tells of the process, the interpreter and its garbage collector."""
    made = CollectorRegistry()
    made.register(page)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


def _totals(counts: Counter[str]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for total in TOTALS:
        family = families.get(total.metric)
        if family is None:
            family = families[total.metric] = CounterMetricFamily(total.metric, total.help, labels=total.labels)
        if total.fixed or not total.labels:
            family.add_metric(total.fixed, counts[total.name])
            continue
        for name, number in sorted(counts.items()):
            first, *values = name.split(" ")
            if first == total.name and len(values) == len(total.labels):
                family.add_metric(values, number)
    yield from families.values()


def _lags(lags: observe.Lags) -> Metric:
    below, buckets = 0, []
    for bound, number in zip((*map(str, observe.LAG_BOUNDS_S), "+Inf"), lags.counts, strict=True):
        below += number
        buckets.append((bound, float(below)))
    family = HistogramMetricFamily(
        "pipetrail_delivery_lag_seconds", "From news of a run to its target having it, outages of the target included."
    )
    family.add_metric((), buckets, lags.total_s)
    return family


def _watches(pulses: tuple[Pulse, ...]) -> Iterator[Metric]:
    heard = GaugeMetricFamily(
        "pipetrail_watch_silence_seconds", "Since the API server last said anything to a watch.", labels=("path",)
    )
    for pulse in pulses:
        if pulse.heard_s is not None:
            heard.add_metric((pulse.path,), pulse.heard_s)
    yield heard


def _runs(dispatch: Dispatch) -> Metric:
    family = GaugeMetricFamily("pipetrail_runs", "Runs by how far a target has them (TrackedRuns).", labels=("state",))
    phases = Counter(entry.status.phase for entry in dispatch.book.all())
    for phase in PHASES:
        family.add_metric((phase,), phases[phase])
    return family


def _outbox(dispatch: Dispatch) -> Iterator[Metric]:
    copies = GaugeMetricFamily(
        "pipetrail_outbox_copies", "Finished records that wait for their tracker.", labels=("place",)
    )
    size = GaugeMetricFamily("pipetrail_outbox_bytes", "What they take, packed.", labels=("place",))
    for place in PLACES:
        copies.add_metric((place,), dispatch.copies.count(place))
        size.add_metric((place,), dispatch.copies.used_bytes(place))
    yield copies
    yield size
    yield GaugeMetricFamily("pipetrail_tracked_runs_bytes", "What TrackedRuns take of etcd.", dispatch.book.bytes)
    yield GaugeMetricFamily(
        "pipetrail_outbox_max_bytes", "What copies in Secrets and TrackedRuns may take.", dispatch.copies.most_bytes
    )


def _targets(dispatch: Dispatch) -> Iterator[Metric]:
    labels = ("target_namespace", "target")
    waiting = GaugeMetricFamily("pipetrail_queue_runs", "Runs that wait for a target or are being sent.", labels=labels)
    ready = GaugeMetricFamily("pipetrail_target_ready", "1 while a target's condition Ready is True.", labels=labels)
    breaker = GaugeMetricFamily(
        "pipetrail_breaker", "1 for the state of a target's breaker; Open: it is not called for a while.",
        labels=(*labels, "state"),
    )  # fmt: skip
    for seat in dispatch.roster.seats():
        who = (seat.ref.namespace, seat.ref.name)
        waiting.add_metric(who, seat.lane.waiting)
        ready.add_metric(who, float(seat.said_ready))
        for state in BREAKERS:
            breaker.add_metric((*who, state), float(seat.lane.breaker == state))
    yield from (waiting, ready, breaker)
