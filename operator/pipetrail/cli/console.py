"""Where tables are printed."""

import os
import sys

from rich.console import Console


def console() -> Console:
    """Standard output: tables that fit 120 columns, colours only on a terminal."""
    wide = bool(os.environ.get("COLUMNS")) or sys.stdout.isatty()
    # What users wrote is no markup: [bold] in a name is five letters in brackets, :warning: a word.
    return Console(width=None if wide else 120, highlight=False, markup=False, emoji=False)
