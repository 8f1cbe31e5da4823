"""What MLflow can hold, in words and numbers (targets.md §1.2; measured on 3.17). docs/targets.md shows the words."""

from typing import Final

from pipetrail.targets.target import Capabilities

KEY_MOST: Final = 250
PARAM_MOST: Final = 6000
TAG_MOST: Final = 8000
NAME_MOST: Final = 250
EXPERIMENT_MOST: Final = 250  # MLflow checks for 500, its column holds 256
NOTE_MOST: Final = 3600  # leaves room for the compare link in a tag's 8000
INT64_MOST: Final = 2**63 - 1
FLOAT_MOST: Final = 1.7976931348623157e308
PARAMS_A_BATCH: Final = 100
TAGS_A_BATCH: Final = 100
ITEMS_A_BATCH: Final = 1000
BYTES_A_BATCH: Final = 900_000  # documented: 1 MB; 3.17 does not enforce it

CAPABILITIES: Final = Capabilities(
    name="MLflow", replay="Idempotent", client_chosen_id=False, original_times=True, children=True, reopen=True,
    nan=True,
    figures="files of the run below figures/: confusion matrices and ROC curves as PNG and JSON, tables as MLflow's "
    "own JSON, markdown as .md and HTML as .html, both sanitised. One that can't be drawn has its data alone",
    limits={
        "names": f"letters, digits, _ - . / : and space, up to {KEY_MOST} characters. @ becomes _at_, % _pct, another "
        "one _; the tag pipetrail.name.<key> holds the original",
        "params": f"{PARAM_MOST} characters, cut; the tag pipetrail.cut.<key> holds length and sha256. The first value "
        "stays for ever",
        "tags": f"{TAG_MOST} characters, cut",
        "metrics": f"float64: an integer that it can't hold is rounded, an infinity is ±{FLOAT_MOST!r}, -0.0 is 0.0; "
        "the tag pipetrail.exact.<key> holds the original. One point of a step, time and value",
        "steps": "64-bit integers; a point beyond is left out",
        "times": "whole milliseconds from 1970 on; earlier is 1970",
        "run names": f"{NAME_MOST} characters, cut",
        "description": f"{NOTE_MOST} characters, cut",
    },
)  # fmt: skip
