"""What a cluster looks like from outside: the table of its parts, and the settings to reach it with."""

import json
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from . import pki
from .control_plane import BUCKET, REGION, Cluster
from .identity import is_running, resident_bytes
from .lifecycle import complaints, parts_of
from .record import Record

LONGEST_ADDRESS = 32


@dataclass(frozen=True)
class Row:
    """One part, as `status` shows it."""

    part: str
    version: str
    pid: int | None
    address: str
    healthy: bool
    problem: str
    rss_bytes: int | None
    log: str


def rows(cluster: Cluster, record: Record) -> list[Row]:
    """The parts of a cluster, asked now."""
    wrong = complaints(cluster, record)
    found = []
    for part in parts_of(cluster):
        recorded = record.process(part.name)
        who = recorded.identity if recorded and is_running(recorded.identity) else None
        problem = wrong.get(part.name, "" if recorded else "not started")
        found.append(
            Row(
                part=part.name,
                version=recorded.version if recorded else part.version,
                pid=who.pid if who else None,
                address=part.address,
                healthy=not problem,
                problem=problem,
                rss_bytes=resident_bytes(who.pid) if who else None,
                log=recorded.log if recorded else "",
            )
        )
    if "network" in wrong:
        found.append(Row("network", "", None, "", False, wrong["network"], None, ""))
    return found


def shortened(address: str) -> str:
    """An address that fits the table: a long path keeps its end."""
    return address if len(address) <= LONGEST_ADDRESS else f"…{address[1 - LONGEST_ADDRESS :]}"


def table(found: list[Row]) -> str:
    """The rows for a person, within 120 columns as long as paths and problems allow."""
    lines = [("PART", "VERSION", "PID", "ADDRESS", "HEALTHY", "RSS")]
    for row in found:
        health = "yes" if row.healthy else f"no: {row.problem}"
        memory = f"{row.rss_bytes / 1024**2:.0f} MiB" if row.rss_bytes is not None else "-"
        lines.append((row.part, row.version, str(row.pid or "-"), shortened(row.address), health, memory))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def status_document(cluster: Cluster, record: Record, found: list[Row]) -> str:
    """The same as JSON."""
    healthy = all(row.healthy for row in found)
    body = {"name": cluster.layout.name, "tier": record.tier, "healthy": healthy, "parts": [asdict(r) for r in found]}
    return json.dumps(body, indent=2)


def settings(cluster: Cluster) -> dict[str, str]:
    """The environment of someone who works with the cluster."""
    endpoint = f"http://{cluster.s3_endpoint}"
    return {
        "KUBECONFIG": str(cluster.layout.kubeconfig()),
        "PIPETRAIL_TIER": cluster.tier,
        "PIPETRAIL_S3_ENDPOINT": endpoint,
        "PIPETRAIL_S3_BUCKET": BUCKET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": cluster.secrets.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": cluster.secrets.s3_secret_key,
    }


def exports(cluster: Cluster) -> str:
    """The settings as a shell reads them; the PATH gains kubectl (and argo)."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings(cluster).items()]
    return "\n".join([*lines, f'export PATH={shlex.quote(str(cluster.layout.commands))}:"$PATH"'])


def settings_document(cluster: Cluster) -> str:
    """All that a test harness needs, as JSON."""
    users = {
        user: {"kubeconfig": str(cluster.layout.kubeconfig(user)), "token": cluster.secrets.tokens[user]}
        for user in pki.PEOPLE
    }
    body: dict[str, Any] = {
        "name": cluster.layout.name,
        "tier": cluster.tier,
        "server": cluster.server,
        "certificateAuthority": str(cluster.layout.pki / "ca.crt"),
        "kubeconfig": str(cluster.layout.kubeconfig()),
        "context": f"pipetrail-{cluster.layout.name}",
        "bin": str(cluster.layout.commands),
        "logs": str(cluster.layout.logs),
        "users": users,
        "s3": {
            "endpoint": f"http://{cluster.s3_endpoint}",
            "bucket": BUCKET,
            "region": REGION,
            "accessKey": cluster.secrets.s3_access_key,
            "secretKey": cluster.secrets.s3_secret_key,
        },
        "environment": settings(cluster),
    }
    return json.dumps(body, indent=2)
