"""/metrics, /healthz and /readyz: names by Prometheus' conventions, all that is counted, how the operator stands."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.real.mlflow import free_port

from pipetrail import observe
from pipetrail.controller import health
from pipetrail.controller.metrics import NOT_SHOWN, TOTALS, Page, Stand, registry
from pipetrail.kube import KubeError

ROOT = Path(__file__).parents[2]
NOTHING = Stand(dispatch=None, pulses=(), lease_held=True)


def families() -> dict[str, object]:
    page = generate_latest(registry(Page(lambda: NOTHING))).decode()
    return {family.name: family for family in text_string_to_metric_families(page)}


def test_all_that_is_counted_is_shown_under_a_name_of_its_own():
    source = "".join(path.read_text() for path in (ROOT / "operator").rglob("*.py"))
    counted = set(re.findall(r'(?:observe\.count|self\._count)\(\s*f?"(\w+)', source))
    assert len(counted) > 10
    assert counted == {total.name for total in TOTALS} | NOT_SHOWN


def test_the_install_guide_names_every_metric_and_no_other():
    guide = (ROOT / "docs" / "install.md").read_text()
    named = set(re.findall(r"^\| `(pipetrail_\w+)`", guide, re.MULTILINE))
    ours = {f"{t.metric}_total" for t in TOTALS}
    gauges = {
        "pipetrail_orphans_held", "pipetrail_runs", "pipetrail_delivery_lag_seconds", "pipetrail_queue_runs",
        "pipetrail_target_ready", "pipetrail_breaker", "pipetrail_lease_held", "pipetrail_watch_silence_seconds",
        "pipetrail_outbox_copies", "pipetrail_outbox_bytes", "pipetrail_outbox_max_bytes",
        "pipetrail_tracked_runs_bytes",
    }  # fmt: skip
    assert named == ours | gauges


def test_totals_carry_the_labels_that_follow_their_name(monkeypatch):
    monkeypatch.setattr(observe, "counts", Counter())
    observe.count("points", 3)
    observe.count("api_write POST trackedruns", 2)
    observe.count("tracker_answer mlflow 200")
    observe.count("events_pod", 5)
    found = families()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for name in ("pipetrail_points", "pipetrail_api_writes", "pipetrail_tracker_requests", "pipetrail_watch_events")
        for sample in found[name].samples
    }
    assert samples == {
        ("pipetrail_points_total",): 3.0,
        ("pipetrail_api_writes_total", ("resource", "trackedruns"), ("verb", "POST")): 2.0,
        ("pipetrail_tracker_requests_total", ("backend", "mlflow"), ("code", "200")): 1.0,
        ("pipetrail_watch_events_total", ("kind", "Workflow")): 0.0,
        ("pipetrail_watch_events_total", ("kind", "Pod")): 5.0,
        ("pipetrail_watch_events_total", ("kind", "WorkflowTaskResult")): 0.0,
    }


def test_the_lag_is_a_histogram_in_seconds(monkeypatch):
    monkeypatch.setattr(observe, "lags", observe.Lags())
    for seconds in (0.05, 0.1, 0.3, 100_000.0):
        observe.lags.add(seconds)
    samples = {(s.name, s.labels.get("le", "")): s.value for s in families()["pipetrail_delivery_lag_seconds"].samples}
    name = "pipetrail_delivery_lag_seconds"
    assert [samples[f"{name}_bucket", le] for le in ("0.1", "0.25", "0.5", "21600.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert (samples[f"{name}_count", ""], samples[f"{name}_sum", ""]) == (4, pytest.approx(100_000.45))


@pytest.mark.parametrize(
    ("text", "where"),
    [("0.0.0.0:8080", ("0.0.0.0", 8080)), ("[::1]:9", ("::1", 9)), (":8080", ("", 8080)),
     ("127.0.0.1:65535", ("127.0.0.1", 65535))],
)  # fmt: skip
def test_an_address_to_listen_on_is_host_and_port(text, where):
    assert health.address(text) == where


@pytest.mark.parametrize("text", ["8080", "host:", "host:http", "host:0", "host:65536", "host:-1", "::"])
def test_what_is_no_address_to_listen_on_is_refused(text):
    with pytest.raises(ValueError, match=r"write it like 0\.0\.0\.0:8080"):
        health.address(text)


async def test_who_has_not_begun_is_alive_and_not_ready():
    port = free_port()
    async with health.serving(health.Health(None), f"127.0.0.1:{port}"), aiohttp.ClientSession() as client:
        answers = {}
        for path in ("healthz", "readyz", "metrics", "other"):
            async with asyncio.timeout(5), client.get(f"http://127.0.0.1:{port}/{path}") as answer:
                answers[path] = (answer.status, (await answer.text()).partition("\n")[0])
    assert answers.pop("metrics")[0] == 200
    assert answers == {
        "healthz": (200, "ok"),
        "readyz": (503, "the ledger and the targets have not been read"),
        "other": (404, "404: Not Found"),
    }
    await asyncio.sleep(0)


async def test_a_port_that_is_taken_is_said():
    port = free_port()
    async with health.serving(health.Health(None), f"127.0.0.1:{port}"):
        with pytest.raises(KubeError, match=f"can't listen on 127.0.0.1:{port}: .*; name another with --listen"):
            async with health.serving(health.Health(None), f"127.0.0.1:{port}"):
                pass
