"""A glimpse of an object says of it what the whole says, to those that look at glimpses."""

import gzip
import json
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_argo_fuzz import JSON, SCALARS

from pipetrail.sources import argo
from pipetrail.sources.argo import glimpse

DATA = Path(__file__).parent.parent / "data"
LOOKS = {
    glimpse.WORKFLOW: (glimpse.Workflow, (argo.header, argo.mark)),
    glimpse.POD: (glimpse.Pod, (argo.pod_facts,)),
    glimpse.RESULT: (glimpse.Result, (argo.result_facts,)),
}
KINDS = {"Workflow": glimpse.WORKFLOW, "Pod": glimpse.POD, "WorkflowTaskResult": glimpse.RESULT}


def objects(kind: Any) -> st.SearchStrategy[Any]:
    """JSON that has the names of `kind` in their places, mostly, and anything below them and beside them."""
    parts = {}
    for name, held in typing.get_type_hints(kind).items():
        if typing.is_typeddict(held):
            parts[name] = objects(held) | JSON
        elif typing.get_origin(held) is list:
            parts[name] = st.lists(objects(typing.get_args(held)[0]) | JSON, max_size=2) | JSON
        elif typing.get_origin(held) is dict:
            parts[name] = st.dictionaries(st.text(max_size=4), objects(typing.get_args(held)[1]) | JSON, max_size=3)
        else:
            parts[name] = below()
    beside = st.dictionaries(st.sampled_from(["managedFields", "templates", "podSpecPatch", "é"]), JSON, max_size=2)
    return st.builds(lambda a, b: {**b, **a}, st.fixed_dictionaries({}, optional=parts), beside)


def below() -> st.SearchStrategy[Any]:
    """What may stand in a field: the shapes that the rules look for, or anything."""
    text = st.dictionaries(st.sampled_from(["pipeline/runid", "workflows.argoproj.io/node-id", "a"]), SCALARS)
    owner = st.fixed_dictionaries({"kind": st.sampled_from(["Workflow", "CronWorkflow"]), "uid": SCALARS})
    outputs = st.fixed_dictionaries({}, optional={"parameters": st.lists(JSON, max_size=2), "exitCode": SCALARS})
    return SCALARS | text | st.lists(owner, max_size=2) | outputs | JSON


@pytest.mark.parametrize("look", LOOKS)
def test_a_glimpse_says_what_the_whole_says_for_any_json(look):
    kind, functions = LOOKS[look]

    @settings(max_examples=300, deadline=None)
    @given(objects(kind) | JSON)
    def holds(body):
        line = json.dumps({"type": "MODIFIED", "object": body}).encode()
        page = json.dumps({"metadata": {"resourceVersion": "7", "continue": "t"}, "items": [body, body]}).encode()
        try:
            whole = msgspec.json.decode(line)["object"]
        except msgspec.DecodeError:  # a lone surrogate, or a number beyond floats: no decoder of ours reads it
            return
        event, listed = look.event(line), look.page(page)
        assert (event.type, listed.following, listed.version) == ("MODIFIED", "t", "7")
        found = [event.body, *listed.items] if isinstance(whole, dict) else [event.body]
        wanted = whole if isinstance(whole, dict) else {}
        for function in functions:
            assert {repr(function(one)) for one in found} == {repr(function(wanted))}

    holds()


class Told(dict):
    """An object that tells which of its names were looked at, each with the names above it."""

    def __init__(self, body: Any, looked: set[tuple[str, ...]], at: tuple[str, ...] = ()) -> None:
        super().__init__({name: self._below(value, looked, (*at, name)) for name, value in body.items()})
        self._looked, self._at = looked, at

    @staticmethod
    def _below(value: Any, looked: set[tuple[str, ...]], at: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [Told._below(one, looked, at) for one in value]
        return Told(value, looked, at) if isinstance(value, dict) else value

    def get(self, key: str, default: Any = None) -> Any:
        self._looked.add((*self._at, key))
        return super().get(key, default)


def kept(kind: Any, path: tuple[str, ...]) -> bool:
    """Does a glimpse keep what stands at `path`?"""
    for name in path:
        if typing.get_origin(kind) is list:
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        elif typing.is_typeddict(kind):
            kind = typing.get_type_hints(kind).get(name)
        if kind is None:
            return False
    return True


@pytest.mark.parametrize("look", LOOKS)
def test_no_rule_looks_at_a_name_that_a_glimpse_leaves_out(look):
    """Also one that no body of ours has: a name that a rule begins to look at must be kept from then on."""
    kind, functions = LOOKS[look]
    looked: set[tuple[str, ...]] = set()
    meta = {
        "uid": "u", "name": "n", "ownerReferences": [{"kind": "Workflow", "uid": "u"}],
        "labels": {"pipeline/runid": "r"}, "annotations": {"workflows.argoproj.io/node-id": "n"},
    }  # fmt: skip
    bare = {"args": ["--pipeline_name", "p"], "env": [{}]}
    template = {
        "container": bare, "script": bare, "initContainers": [bare], "containerSet": {"containers": [bare]},
    }  # fmt: skip
    status = {"nodes": {"n": {"phase": "Running", "outputs": {}}}}
    for function in functions:
        function(Told({"metadata": meta, "spec": {"templates": [template]}, "status": status, "outputs": {}}, looked))
    assert ("metadata", "ownerReferences") in looked
    assert kind is not glimpse.Workflow or ("spec", "templates", "containerSet", "containers", "env", "name") in looked
    assert {path for path in looked if not kept(kind, path)} == set()


def test_each_recorded_object_is_seen_as_it_is():
    packed = sorted(DATA.glob("*/*/events.jsonl.gz"))
    assert {path.parent.parent.name for path in packed} == {"argo", "kfp"}
    for path in packed:
        for line in gzip.decompress(path.read_bytes()).splitlines():
            recorded = json.loads(line)
            look, body = KINDS.get(recorded["kind"]), recorded["object"]
            if look is None:
                continue
            seen = look.event(json.dumps({"type": "MODIFIED", "object": body}).encode()).body
            for function in LOOKS[look][1]:
                assert function(seen) == function(body), path.parent.name
            assert look.event(json.dumps({"type": "DELETED", "object": body}).encode()).body == body


def test_names_that_are_no_objects_are_read_as_they_are():
    for body in ({"metadata": 1, "spec": []}, {"metadata": None, "status": {"nodes": [1]}}, [], "text", None, {}):
        whole = body if isinstance(body, dict) else {}
        assert glimpse.WORKFLOW.event(json.dumps({"type": "ADDED", "object": body}).encode()).body == whole
    with pytest.raises(msgspec.DecodeError):
        glimpse.WORKFLOW.event(b"<html>")
