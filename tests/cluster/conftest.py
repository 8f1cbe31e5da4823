"""Fixtures of a real API server."""

import asyncio

from tests.cluster.fixtures import *  # noqa: F403

# pytest-asyncio 1.5 saves "the current loop" before it sets its own; where there is none Python 3.11 makes one that
# nobody closes, which is a warning and so an error. Having said that there is none, none is made.
asyncio.set_event_loop(None)
