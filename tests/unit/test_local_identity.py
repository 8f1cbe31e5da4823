"""A process is known by its pid together with its start time: a pid alone is used again."""

import dataclasses
import os
import subprocess
import sys

import pytest
from deploy.local.identity import Identity, identify, is_running, parse_stat, resident_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def stat_line(command: str, state: str = "S", started: str = "98765") -> str:
    after_state = " ".join(str(n) for n in range(4, 22))
    return f"42 ({command}) {state} {after_state} {started} 23 24"


@pytest.mark.parametrize("command", ["etcd", "kube apiserver", "odd) S 1 (name", ""])
def test_the_start_time_is_read_whatever_the_command_is_called(command):
    assert parse_stat(stat_line(command)).started == "98765"


def test_the_state_is_read():
    assert parse_stat(stat_line("sh", state="Z")).state == "Z"


def test_this_process_is_running():
    me = identify(os.getpid())
    assert me is not None
    assert is_running(me)


@pytest.mark.parametrize("other", [{"started": "1"}, {"boot": "another"}])
def test_another_process_under_the_same_pid_is_not_the_one_meant(other):
    me = identify(os.getpid())
    assert me is not None
    assert not is_running(dataclasses.replace(me, **other))


def test_nobody_runs_under_no_identity():
    assert not is_running(None)


@linux
def test_a_process_that_ended_is_nobody_even_before_it_is_reaped():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert identify(child.pid) is None
    finally:
        child.wait()


@linux
def test_memory_is_told_for_those_who_run_only():
    assert (resident_bytes(os.getpid()) or 0) > 1024**2
    assert resident_bytes(2**30) is None


def test_an_identity_is_compared_as_a_whole():
    assert Identity(1, "2", "b") == Identity(1, "2", "b")
