"""What event files hold, in words and numbers (targets.md §3; measured on 2.21). docs/targets.md shows the words."""

import struct
from typing import Final

from pipetrail.targets.target import Capabilities

KEY_MOST: Final = 500
TEXT_MOST: Final = 8000
NAME_MOST: Final = 250
NOTE_MOST: Final = 16_000
FILE_MOST: Final = 8 << 20
STEP_MOST: Final = 2**63 - 1
TIME_MOST_MS: Final = 253_402_300_799_000  # the end of the year 9999
FLOAT_MOST: Final = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

CAPABILITIES: Final = Capabilities(
    name="TensorBoard", replay="ReadBack", client_chosen_id=True, original_times=True, children=True, reopen=True,
    figures="confusion matrices and ROC curves as images and text; tables, markdown and HTML as text", nan=True,
    limits={
        "names": f"any text of up to {KEY_MOST} characters; control characters become _. The tag pipetrail.name.<key> "
        "holds the original",
        "params": f"{TEXT_MOST} characters, cut; the tag pipetrail.cut.<key> holds length and sha256. HPARAMS shows a "
        "run once it has ended, and what comes later stands in its text alone",
        "tags": f"{TEXT_MOST} characters, cut. They stand in the text",
        "metrics": "float32: rounding is no change. An integer that float64 can't hold, a number beyond "
        f"±{FLOAT_MOST!r} (stored as that) and one that would become 0 are changes; the tag pipetrail.exact.<key> "
        "holds the original",
        "steps": "64-bit integers; a point beyond is left out",
        "times": "whole milliseconds from 1970 on; earlier is 1970",
        "outcome": "HPARAMS knows success and failure: a killed run is a failure there, its text says killed. Of a run "
        "that was retried HPARAMS keeps the first end",
        "run names": f"{NAME_MOST} characters, cut. In folder names / and control characters become _ or a dot, and a "
        "piece of a hash tells two of one name apart",
        "text": f"{NOTE_MOST} characters, cut",
        "files": f"lie in the run's folder, markdown is shown as text too; {FILE_MOST >> 20} MiB, larger ones are left "
        "out",
    },
)  # fmt: skip
