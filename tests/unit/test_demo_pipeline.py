"""The demo's pipeline and its recording belong together, and know of no tracker."""

import re
from pathlib import Path

import yaml
from deploy.demo import __main__ as demo
from deploy.demo import sides

from pipetrail import recording

PIPELINE = Path(demo.__file__).parent / "churn-sweep"


def test_no_word_of_a_tracker_is_in_the_pipeline():
    assert not re.search(demo.WORDS, (PIPELINE / "workflow.yaml").read_text(), re.IGNORECASE)


def test_the_recording_is_one_of_this_very_pipeline():
    body, _ = recording.load(PIPELINE).fold()
    written = yaml.safe_load((PIPELINE / "workflow.yaml").read_text())
    recorded = {t["name"]: t.get("container", t.get("script")) for t in body["spec"]["templates"]}
    for template in written["spec"]["templates"]:
        for key, value in (template.get("container") or template.get("script") or {}).items():
            assert recorded[template["name"]][key] == value


def test_what_a_person_submitted_is_read_from_the_file():
    values = sides.submitted(PIPELINE / "workflow.yaml")
    assert values[("", "learning-rate", None)] == "0.1"
    assert values[("train depth=4", "depth", None)] == "4"
