"""Where results are printed: tables for people, JSON and YAML for programs."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import yaml
from rich.console import Console


def console() -> Console:
    """Standard output: tables that fit 120 columns, colours only on a terminal."""
    wide = bool(os.environ.get("COLUMNS")) or sys.stdout.isatty()
    # What users wrote is no markup: [bold] in a name is five letters in brackets, :warning: a word.
    return Console(width=None if wide else 120, highlight=False, markup=False, emoji=False)


def show(result: Any, form: str, table: Callable[[], None]) -> None:
    """Print `result` as JSON or YAML, or let `table` print it for people."""
    match form:
        case "json":
            sys.stdout.write(json.dumps(result, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        case "yaml":
            yaml.safe_dump(result, sys.stdout, sort_keys=False, allow_unicode=True)
        case _:
            table()
