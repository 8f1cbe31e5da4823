"""What is generated from the API's types stands in the repository as it would be generated now."""

from pathlib import Path

import pytest
import yaml

from pipetrail import api
from pipetrail.api import conditions

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", list(api.crds()))
def test_a_crd_file_is_what_the_types_give(name):
    stands = (ROOT / "crds" / name).read_text()
    assert stands == api.to_yaml(api.crds()[name]), "run `make crds`"


def test_there_is_no_other_file_beside_the_crds():
    """But for the list of them, with which `kubectl apply -k` takes the folder."""
    listed = yaml.safe_load((ROOT / "crds" / "Kustomization").read_text())["resources"]
    assert sorted(listed) == sorted(api.crds())
    assert sorted(path.name for path in (ROOT / "crds").iterdir()) == sorted([*api.crds(), "Kustomization"])


def test_the_page_on_conditions_is_what_the_table_gives():
    stands = (ROOT / "docs" / "conditions.md").read_text()
    assert stands == conditions.to_markdown(), "run `uv run pipetrail crds --conditions > docs/conditions.md`"


def test_every_field_has_a_description():
    """What ``kubectl explain`` has nothing to say about is not finished."""
    silent = []

    def walk(schema, path):
        for name, inner in schema.get("properties", {}).items():
            if not inner.get("description") and path:
                silent.append(f"{path}.{name}")
            walk(inner, f"{path}.{name}")
        if "items" in schema:
            walk(schema["items"], path)

    for crd in api.crds().values():
        top = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        walk(top["spec"], f"{crd['spec']['names']['kind']}.spec")
        walk(top["status"], f"{crd['spec']['names']['kind']}.status")
    assert silent == []
