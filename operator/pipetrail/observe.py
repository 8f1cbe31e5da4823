"""What the operator says about itself: structured log lines, and counts.

A line has an event and fields (run, target, cause), never a body, a header or a value of a user's. Counts are plain
numbers by name, so that a test or a later /metrics page can read them.
"""

import logging
import sys
from collections import Counter
from typing import Any, TextIO

import structlog

counts: Counter[str] = Counter()
"""Totals since the process started: events by kind, ``api_writes``, ``tracker_calls``, ``points``, ``lost``, ..."""


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
