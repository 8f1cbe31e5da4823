"""What the operator says about itself: structured log lines, and counts.

A line has an event and fields (run, target, cause), never a body, a header or a value of a user's. Counts are plain
numbers by name, which tests and the page /metrics read.
"""

import logging
import sys
from bisect import bisect_left
from collections import Counter
from typing import Any, Final, TextIO

import structlog

counts: Counter[str] = Counter()
"""Totals since the process started. A name may be followed by the values of its labels: ``api_write POST trackedruns``.

Labels come from our own code and from protocols (verbs, kinds, status codes), never from a user's names, so that there
are few of them. What each is called on the page /metrics stands in `controller/metrics.py`.
"""
LAG_BOUNDS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0)


class Lags:
    """How long things took: `counts` by the bounds of `LAG_BOUNDS_S`, the last one for what took longer."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LAG_BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """One more that took `seconds`."""
        self.counts[bisect_left(LAG_BOUNDS_S, seconds)] += 1
        self.total_s += seconds


lags = Lags()
"""From news of a run to its target having all of it; deliveries that had nothing to send do not count."""


def count(name: str, n: int = 1) -> None:
    """Add to a total."""
    counts[name] += n


def log() -> Any:
    """The logger; ``log().info("settled", run=..., target=...)``."""
    return structlog.get_logger("pipetrail")


def configure(*, form: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send our lines, and warnings of libraries, to `stream` as JSON or, on a terminal, as text."""
    out = stream or sys.stderr
    text = form == "text" or (form == "auto" and out.isatty())
    stamps: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    # A pretty traceback would print the locals of each frame, and among them may be a token.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    render: Any = plain if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*stamps, render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamps,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # kopf logs each handled event at INFO, with the object's name; our own lines say what matters.
    logging.getLogger("kopf").setLevel(logging.ERROR if level != "debug" else logging.WARNING)


def where(error: BaseException) -> str:
    """Type and place of an error, without its text: that may hold a user's values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "?" if trace is None else f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
    return f"{type(error).__name__} at {place}"
