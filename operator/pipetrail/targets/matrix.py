"""What each tracker can hold, side by side: docs/targets.md is made from the targets' own words."""

import re
from collections.abc import Sequence
from typing import Final

from pipetrail.targets.mlflow.limits import CAPABILITIES as MLFLOW
from pipetrail.targets.neptune.limits import CAPABILITIES as NEPTUNE
from pipetrail.targets.target import Capabilities
from pipetrail.targets.tensorboard.limits import CAPABILITIES as TENSORBOARD

ALL: Final[Sequence[Capabilities]] = (MLFLOW, NEPTUNE, TENSORBOARD)
_REPLAY: Final = {
    "Idempotent": "the tracker keeps one point of it",
    "ReadBack": "what is there is read first, and only what is missing is sent",
}
_HEAD: Final = """\
<!-- Generated from each target's limits.py by `pipetrail crds --targets`; edit those. -->
# What each tracker can hold

A value that a tracker can't hold is handled by the rule below, and said: in the tracker itself by the tag that the
rule names, on the TrackedRun by `status.changes`, and beforehand by `pipetrail preview RUN --target TARGET`. The rest
of the batch still lands.
"""


def to_markdown(targets: Sequence[Capabilities] = ALL) -> str:
    """The page."""
    return "\n".join([_HEAD, *(_section(target) for target in targets)])


def _section(target: Capabilities) -> str:
    facts = {
        "A point that is sent again": _REPLAY[target.replay],
        "The run's id is ours to choose": _word(target.client_chosen_id),
        "Times are those of the run and its steps": _word(target.original_times),
        "Child runs": _word(target.children),
        "An ended run can be reopened": _word(target.reopen),
        "Figures": target.figures or "no",
        "NaN": _word(target.nan),
    }
    rows = [f"| {name} | {said} |" for name, said in facts.items()]
    limits = [f"| {name} | {_code(said)} |" for name, said in target.limits.items()]
    table = ["", "| what | |", "|---|---|", *rows, "", "| limit | what is done beyond it |", "|---|---|", *limits, ""]
    return "\n".join([f"## {target.name}", *table])


def _code(text: str) -> str:
    """Names and signs as code: markdown would take <key> for HTML and _ for emphasis."""
    return re.sub(r"pipetrail\.[\w.]+<key>|(?<!\S)[_@%]\w*", r"`\g<0>`", text)


def _word(able: bool) -> str:
    return "yes" if able else "no"
