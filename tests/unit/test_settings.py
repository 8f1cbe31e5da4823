"""Sizes as people write them."""

import pytest

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
