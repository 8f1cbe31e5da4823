"""What kopf's thread says to the delivery: all of an object that the delivery goes by."""

import asyncio

from tests.unit.test_delivery_survey import NOWHERE, Cluster, operator

from pipetrail.controller.kopf_thread import Declared


async def test_a_namespace_has_its_uid_still_when_kopf_has_seen_it_or_its_copies_would_be_taken_for_stranded() -> None:
    body = {
        "metadata": {"name": "team", "uid": "n1", "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": []}
    }
    async with operator(Cluster(), NOWHERE) as dispatch:
        dispatch.saw_namespace(body, deleted=False)  # as the list of the start has it
        known = dispatch.namespaces.of("team")
        Declared(asyncio.get_running_loop(), dispatch).namespace(None, body)
        await asyncio.sleep(0)
        assert dispatch.namespaces.of("team") == known
        assert dispatch.namespaces.uid("team") == "n1"
