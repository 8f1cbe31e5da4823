"""The record names all that a cluster started or changed; it alone says what to take down."""

import dataclasses
import json
import stat
from pathlib import Path

import pytest
from deploy.local.identity import Identity
from deploy.local.progress import Progress
from deploy.local.record import (
    Address,
    Bridge,
    Cgroup,
    Chain,
    Ledger,
    Links,
    Mounts,
    Process,
    Record,
    Rule,
    Sysctl,
    decode,
    encode,
)
from deploy.local.teardown import describe, mount_points, take_down, unmount_below
from deploy.local.trouble import Trouble

ETCD = Process("etcd", "3.7.3", "spec", "http://127.0.0.1:1", "/logs/etcd.log", Identity(42, "9", "boot"))
EVERYTHING = Record(
    tier="node",
    ports={"etcd": 20001},
    things=(
        Sysctl("/proc/sys/net/ipv4/ip_forward", "0\n"),
        Bridge("lab0"),
        Address("10.96.0.1/32", "lo"),
        Chain("filter", "PIPETRAIL-LAB"),
        Rule("filter", "PIPETRAIL-LAB", ("-j", "DROP")),
        Mounts("/state/clusters/lab"),
        Cgroup("pipetrail-lab"),
        Links("/var/log/containers", "/state"),
        ETCD,
        dataclasses.replace(ETCD, name="s3", identity=None),
    ),
    applied={"argo-crds": "abc"},
)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "record.json")
    ledger.write(Record(tier="api"))
    return ledger


def test_a_record_is_read_as_it_was_written():
    assert decode(encode(EVERYTHING)) == EVERYTHING


@pytest.mark.parametrize("thing", EVERYTHING.things)
def test_every_kind_of_thing_can_be_told_to_a_person(thing):
    assert describe(thing)


def test_things_stay_in_the_order_of_their_making(ledger):
    for thing in EVERYTHING.things:
        ledger.add(thing)
    assert ledger.now().things == EVERYTHING.things


def test_a_part_that_is_started_again_replaces_its_older_self(ledger):
    ledger.add(ETCD)
    again = dataclasses.replace(ETCD, identity=Identity(43, "10", "boot"))
    ledger.add(again)
    assert ledger.now().things == (again,)


def test_what_is_dropped_is_forgotten(ledger):
    ledger.add(ETCD)
    ledger.add(Bridge("lab0"))
    ledger.drop(ETCD)
    assert ledger.now().things == (Bridge("lab0"),)


def test_only_its_owner_may_read_the_record(ledger):
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


def test_a_record_of_another_format_is_refused_with_what_to_do(ledger):
    ledger.path.write_text(json.dumps({"format": 99}))
    with pytest.raises(Trouble, match="take the cluster down with the version that made it"):
        ledger.read()


def test_without_a_record_there_is_no_cluster(tmp_path):
    ledger = Ledger(tmp_path / "record.json")
    assert ledger.read() is None
    with pytest.raises(Trouble, match=r"cluster\.py up"):
        ledger.now()


def test_taking_down_spares_a_stranger_who_has_the_pid_now(ledger):
    stranger = Process("etcd", "", "", "", "", Identity(1, "not the start time of process 1", "boot"))
    ledger.add(stranger)
    take_down(ledger, Progress())
    assert ledger.now().things == ()


MOUNTINFO = r"""
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:26 / /state/clusters/lab/kubelet/volume\040one rw - tmpfs tmpfs rw
31 30 0:27 / /state/clusters/lab/kubelet/volume\040one/inner rw - tmpfs tmpfs rw
32 22 0:28 / /state/clusters/lab2/kubelet rw - tmpfs tmpfs rw
""".strip()


def test_mounts_below_a_folder_are_found_innermost_first():
    found = mount_points(MOUNTINFO, Path("/state/clusters/lab"))
    assert [str(point).removeprefix("/state/clusters/lab/kubelet/") for point in found] == [
        "volume one/inner",
        "volume one",
    ]


def test_a_folder_without_mounts_is_left_alone(tmp_path):
    unmount_below(tmp_path)
    assert tmp_path.exists()
