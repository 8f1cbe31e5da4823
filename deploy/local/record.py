"""The cluster's record of what it started and changed, so that it alone says what to take down.

A thing is written down *before* it comes into being. If this program dies in between, the record names
something that is not there, which is harmless; the other way round something would stay behind for ever.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .identity import Identity
from .trouble import Trouble

FORMAT = 1
Tier = Literal["api", "node"]


@dataclass(frozen=True)
class Process:
    """A part that runs: `spec` is the digest of all that it was started with."""

    name: str
    version: str
    spec: str
    address: str
    log: str
    identity: Identity | None = None


@dataclass(frozen=True)
class Bridge:
    """A network bridge with the pods' gateway on it."""

    name: str


@dataclass(frozen=True)
class Address:
    """An address added to a device."""

    address: str
    device: str


@dataclass(frozen=True)
class Rule:
    """One firewall rule, as iptables takes it after -A or -D CHAIN."""

    table: str
    chain: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """A firewall chain of our own."""

    table: str
    name: str


@dataclass(frozen=True)
class Sysctl:
    """A kernel setting that was changed, with what it was before."""

    path: str
    before: str


@dataclass(frozen=True)
class Mounts:
    """Everything that is mounted below a folder: volumes, root file systems, network namespaces."""

    folder: str


@dataclass(frozen=True)
class Cgroup:
    """A control group of our own: every process in it came from a part of this cluster."""

    path: str


@dataclass(frozen=True)
class Links:
    """Links in a shared folder; those that point into `target` are ours."""

    folder: str
    target: str


Thing = Process | Bridge | Address | Rule | Chain | Sysctl | Mounts | Cgroup | Links
KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (Process, Bridge, Address, Rule, Chain, Sysctl, Mounts, Cgroup, Links)
}


@dataclass(frozen=True)
class Record:
    """What is known of one cluster.

    `things` are in the order of their making, so they are taken down from the end. `ports` stay the same
    over restarts. `applied` names what was put into the cluster's data, by the digest of its inputs.
    """

    tier: Tier
    ports: Mapping[str, int] = field(default_factory=dict)
    things: tuple[Thing, ...] = ()
    applied: Mapping[str, str] = field(default_factory=dict)

    def process(self, name: str) -> Process | None:
        """The process of that name, if one was recorded."""
        return next((t for t in self.things if isinstance(t, Process) and t.name == name), None)


def encode(record: Record) -> str:
    """The record as JSON."""
    things = [{"kind": type(t).__name__, **dataclasses.asdict(t)} for t in record.things]
    body = {"format": FORMAT, "tier": record.tier, "ports": dict(record.ports), "applied": dict(record.applied)}
    return json.dumps({**body, "things": things}, indent=1)


def _thing(raw: dict[str, Any]) -> Thing:
    values = dict(raw)
    kind = values.pop("kind")
    if kind == "Process" and values.get("identity"):
        values["identity"] = Identity(**values["identity"])
    if kind == "Rule":
        values["arguments"] = tuple(values["arguments"])
    thing: Thing = KINDS[kind](**values)
    return thing


def decode(text: str) -> Record:
    """Read a record; ValueError, KeyError or TypeError if it is none of this format."""
    raw = json.loads(text)
    if raw["format"] != FORMAT:
        raise ValueError(f"format {raw['format']}, expected {FORMAT}")
    return Record(
        tier=raw["tier"],
        ports=raw["ports"],
        things=tuple(_thing(t) for t in raw["things"]),
        applied=raw["applied"],
    )


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    fresh.replace(path)


class Ledger:
    """The record on disk. Hold the cluster's lock while writing through it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Record | None:
        """The record, or None if this cluster has none."""
        try:
            return decode(self.path.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as wrong:
            raise Trouble(
                f"{self.path} is not a record that this version understands ({wrong}): take the cluster down "
                "with the version that made it, or stop what the file names by hand and remove its folder"
            ) from None

    def write(self, record: Record) -> Record:
        """Replace the record as a whole."""
        write_private(self.path, encode(record))
        return record

    def now(self) -> Record:
        """The record of a cluster that must have one."""
        record = self.read()
        if record is None:
            raise Trouble(f"there is no cluster here ({self.path} is missing): start one with `cluster.py up`")
        return record

    def add(self, thing: Thing) -> None:
        """Write a thing down, before it is made. A process of the same name, or the same thing, is replaced."""
        record = self.now()
        kept = tuple(t for t in record.things if not _same(t, thing))
        self.write(dataclasses.replace(record, things=(*kept, thing)))

    def drop(self, thing: Thing) -> None:
        """Forget a thing, after it is gone."""
        record = self.now()
        self.write(dataclasses.replace(record, things=tuple(t for t in record.things if not _same(t, thing))))

    def mark(self, what: str, digest: str) -> None:
        """Remember that something was put into the cluster's data."""
        record = self.now()
        self.write(dataclasses.replace(record, applied={**record.applied, what: digest}))


def _same(one: Thing, other: Thing) -> bool:
    match one, other:
        case Process(), Process():
            return one.name == other.name
        case Sysctl(), Sysctl():
            return one.path == other.path
        case _:
            return one == other
