"""Fixtures of a real API server."""

from tests.cluster.fixtures import *  # noqa: F403
