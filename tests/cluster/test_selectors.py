"""A label selector selects what the API server selects."""

import json

import pytest

from pipetrail import policy
from pipetrail.api import LabelSelector, Requirement

pytestmark = pytest.mark.api

OBJECTS = {
    "bare": {},
    "churn": {"team": "churn"},
    "churn-gold": {"team": "churn", "tier": "gold"},
    "fraud-gold": {"team": "fraud", "tier": "gold"},
    "empty": {"team": "", "tier": "silver"},
}


def need(key, operator, *values):
    return LabelSelector(match_expressions=(Requirement(key=key, operator=operator, values=values),))


SELECTORS = {
    "": LabelSelector(),
    "team=churn": LabelSelector(match_labels={"team": "churn"}),
    "team=": LabelSelector(match_labels={"team": ""}),
    "team=churn,tier=gold": LabelSelector(match_labels={"team": "churn", "tier": "gold"}),
    "team in (churn,fraud)": need("team", "In", "churn", "fraud"),
    "team notin (churn)": need("team", "NotIn", "churn"),
    "tier notin (gold,silver)": need("tier", "NotIn", "gold", "silver"),
    "team": need("team", "Exists"),
    "!tier": need("tier", "DoesNotExist"),
    "tier=gold,team notin (churn)": LabelSelector(
        match_labels={"tier": "gold"}, match_expressions=need("team", "NotIn", "churn").match_expressions
    ),
}


def test_our_selectors_agree_with_kubectl(kubectl, namespace):
    items = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels | {"ours": "yes"}}}
        for name, labels in OBJECTS.items()
    ]
    kubectl("create", "-n", namespace, "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": items})
    for text, selector in SELECTORS.items():
        query = ",".join(part for part in ("ours=yes", text) if part)
        answer = json.loads(kubectl("get", "configmaps", "-n", namespace, "-l", query, "-o", "json").out)
        theirs = sorted(item["metadata"]["name"] for item in answer["items"])
        assert theirs == sorted(name for name, labels in OBJECTS.items() if policy.selects(selector, labels)), text
