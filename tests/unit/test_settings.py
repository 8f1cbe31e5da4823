"""Sizes as people write them, and which of several operators this is."""

import pytest

from pipetrail.cli.run import ordinal
from pipetrail.settings import Settings, size_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("256Mi", 256 << 20), ("256MiB", 256 << 20), ("1Gi", 1 << 30), ("8KiB", 8192), ("100", 100), ("100B", 100)],
)
def test_a_size_is_read_with_and_without_its_b(text, size):
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "1.5Gi", "256M", "256 Mi", "1Ti", "9" * 20])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="write it like 256Mi"):
        Settings(outbox_max=text)


def test_the_default_is_what_the_pages_say():
    assert Settings().outbox_max_bytes == 256 << 20


@pytest.mark.parametrize(
    ("host", "number"), [("pipetrail-0", 0), ("pipetrail-t1-12", 12), ("pipetrail-3.svc.local", 3)]
)
def test_a_shard_is_the_number_that_its_pods_name_ends_in(host, number):
    assert ordinal(host) == number


@pytest.mark.parametrize("host", ["", "laptop", "pipetrail-7c9f8d5b4-x2x9z"])
def test_a_host_that_is_no_pod_of_a_statefulset_has_no_number(host):
    with pytest.raises(ValueError, match="name one, --shard 0"):
        ordinal(host)


@pytest.mark.parametrize("wrong", [{"shards": 0}, {"shards": 65}, {"shard": -1}, {"shard": 64}])
def test_shards_that_there_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="there are 1 to 64, counted from 0"):
        Settings(**wrong)


def test_shards_without_leases_are_refused():
    with pytest.raises(ValueError, match="leave out --no-lease"):
        Settings(shards=2, lease="")
