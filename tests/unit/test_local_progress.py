"""Someone who waits for a build sees what it is at, and that it has not hung."""

import io

import pytest
from deploy.local.progress import Progress, clock, line


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (9.9, "0:09"), (130, "2:10"), (3725, "62:05")])
def test_time_is_minutes_and_seconds(seconds, shown):
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("elapsed", "expected", "shown"),
    [
        (130, 360, "kube-apiserver 1.36.3  2:10 of about 6:00"),
        (130, None, "kube-apiserver 1.36.3  2:10"),
        (400, 360, "kube-apiserver 1.36.3  6:40, longer than the usual 6:00; still at work"),
    ],
)
def test_a_line_names_the_job_its_time_and_the_time_it_takes(elapsed, expected, shown):
    assert line("kube-apiserver 1.36.3", elapsed, expected) == shown


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def run_a_minute(terminal):
    out, now = io.StringIO(), Clock()
    progress = Progress(out, now, terminal)
    progress.begin("etcd 3.7.3", 60)
    while now.time < 60:
        now.time += 0.5
        progress.tick()
    progress.done()
    return out.getvalue()


def test_without_a_terminal_a_plain_line_comes_every_15_seconds():
    assert run_a_minute(terminal=False).splitlines() == [
        "etcd 3.7.3  0:00 of about 1:00",
        "etcd 3.7.3  0:15 of about 1:00",
        "etcd 3.7.3  0:30 of about 1:00",
        "etcd 3.7.3  0:45 of about 1:00",
        "etcd 3.7.3  1:00 of about 1:00",
        "etcd 3.7.3  done in 1:00",
    ]


def test_on_a_terminal_one_line_moves_every_second():
    shown = run_a_minute(terminal=True)
    assert shown.count("\n") == 1
    assert shown.count("\r\033[K") == 62
