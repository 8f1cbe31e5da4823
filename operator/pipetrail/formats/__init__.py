"""Formats: bytes that a step wrote, to points and figures. Pure, bounded, and never an exception for bad input.

A reader of a format takes the file's name and its bytes and gives a :class:`Content`. What it could not use it says in
`notes`; a note is an entry of the record's ``partial``.
"""

from datetime import datetime
from typing import Final

from pipetrail.record import Figure, Frozen, Number

#: What `RawPoint.recognised` may say. All but the last are told from the content alone; ``step-table`` (CSV or JSON
#: lines with a step column) is the shape rule of the selection. None: numbers found by the generic rule.
RECOGNISED: Final = (
    "huggingface",  # trainer_state.json: log_history; its other numbers are settings
    "records",  # a list of objects with a step key, in JSON or YAML
    "kfp",  # {"metrics": [{"name": ..., "numberValue": ...}]}; other numbers are settings
    "lightning",  # CSV with the columns step and epoch: epoch stays a metric
    "evals_result",  # XGBoost, LightGBM: {"train": {"rmse": [...]}, ...}
    "keras",  # {"loss": [...], "val_loss": [...]}
    "classification_report",  # scikit-learn, output_dict=True; support is a setting
    "tensorboard",  # scalars of an event file
    "step-table",
)


class RawPoint(Frozen, frozen=True):
    """A number in a file or a log; `time` only where the source itself has one (a log line's stamp)."""

    key: str
    value: Number
    step: int | None = None
    time: datetime | None = None
    recognised: str | None = None
    setting: bool = False


class Note(Frozen, frozen=True):
    """Why a file, or a part of it, gave nothing: a CamelCase reason and a sentence."""

    reason: str
    message: str


class Content(Frozen, frozen=True):
    """All that a file or a log says."""

    points: tuple[RawPoint, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[Note, ...] = ()
