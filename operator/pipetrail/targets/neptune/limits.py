"""What Neptune can hold, in words and numbers (targets.md §2, the client's source). docs/targets.md shows the words.

Where the vendor's server could not be asked, the narrower of two readings holds.
"""

from typing import Final

from pipetrail.targets.target import Capabilities

PATH_MOST: Final = 1024  # bytes; documented for neptune-scale, not known for 1.x
TEXT_MOST: Final = 16_384  # neptune/attributes/atoms/string.py cuts there without an error
INT_MOST: Final = 2**31 - 1  # neptune/attributes/atoms/integer.py
STEP_MOST: Final = 2**53  # a step is a float64
TIME_MOST_MS: Final = 2**53 // 1000
ITEMS_A_CALL: Final = 1000  # operations or points; the client itself sends up to 1000 operations at once
BYTES_A_CALL: Final = 900_000
FILE_MOST: Final = 8 << 20

CAPABILITIES: Final = Capabilities(
    name="Neptune", replay="ReadBack", client_chosen_id=True, original_times=True, children=True, reopen=True,
    figures="files below figures/: confusion matrices and ROC curves as PNG with their data as JSON beside it, tables "
    "as JSON, markdown and HTML sanitised", nan=False,
    limits={
        "server": "a server of your own that speaks the protocol of Neptune 1.x; the hosted service is closed, and "
        "*.neptune.ai is refused",
        "layout": "params below parameters/, metrics below metrics/ with steps as namespaces, tags below tags/ and "
        "pipetrail/. A turn of a loop is a run of its own; pipetrail/parent names its parent, pipetrail/run groups all",
        "names": f"{PATH_MOST} bytes with their namespace, cut. Control characters and backticks become _, as do . and "
        ".. between slashes; empty parts go. A name that is a namespace too gets four hex digits. The tag "
        "pipetrail.name.<key> holds the original",
        "params": f"{TEXT_MOST} characters, cut; the tag pipetrail.cut.<key> holds length and sha256. One that is "
        "strictly a number is stored as one; if it would be spelt otherwise, pipetrail.exact.<key> holds it",
        "tags": f"{TEXT_MOST} characters, cut",
        "metrics": "float64: an integer that it can't hold is rounded; NaN, infinities and what is beyond float64 are "
        "left out. The tag pipetrail.exact.<key> holds what was there",
        "steps": f"one point of each, the first; pipetrail.more.<key> holds the others. Up to ±{STEP_MOST}; a point "
        "beyond is left out",
        "times": "whole milliseconds from 1970 on; earlier is 1970",
        "run names": f"{TEXT_MOST} characters, cut",
        "description": f"{TEXT_MOST} characters, cut",
        "files": f"{FILE_MOST >> 20} MiB; a larger one is left out",
    },
)  # fmt: skip
