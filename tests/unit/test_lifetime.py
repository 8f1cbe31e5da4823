"""What of a run may go by itself, by the words of its object."""

import pytest

from pipetrail.sources.argo import Lifetime, lifetime

OBJECT, PODS, NOTHING = Lifetime(object_goes=True), Lifetime(pods_go=True), Lifetime()


@pytest.mark.parametrize(
    ("body", "goes"),
    [
        ({}, NOTHING),
        (None, NOTHING),
        ({"spec": {"ttlStrategy": {}, "podGC": {}}}, NOTHING),
        ({"spec": {"ttlStrategy": {"secondsAfterCompletion": 0}}}, OBJECT),
        ({"status": {"storedWorkflowTemplateSpec": {"ttlStrategy": {"secondsAfterSuccess": 5}}}}, OBJECT),
        ({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}}, OBJECT),
        ({"metadata": {"labels": {"pipeline/runid": "r"}}}, OBJECT),
        ({"spec": {"podGC": {"strategy": "OnPodCompletion"}}}, PODS),
        ({"status": {"storedWorkflowTemplateSpec": {"podGC": {"strategy": "OnWorkflowSuccess"}}}}, PODS),
        ({"spec": {"ttlStrategy": 7, "podGC": {"strategy": 7}}, "metadata": []}, NOTHING),
    ],
)
def test_what_goes_by_itself(body, goes):
    assert lifetime(body) == goes
