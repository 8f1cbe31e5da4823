"""The last lines that a program printed, for people who look for why it failed."""

import re
from typing import Final

LINES: Final = 20
MAX_LINE_CHARS: Final = 2000
FETCHED_LINES: Final = 100
"""How many lines to fetch for a tail: Argo's executor prints a few per output after the program's last one."""

_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d) ")
_ARGO: Final = re.compile(
    r"time=\S+ level=\w+ msg=(?:.*\bargo=true\b|\"Taring |\"archived \d+ files/dirs in |\"capturing logs\")"
)


def read(data: bytes) -> str | None:
    """The end of a log without its stamps and without the lines of Argo's executor; None if nothing is left."""
    lines = [_STAMP.sub("", line, count=1) for line in data.decode("utf-8", "replace").splitlines()]
    mine = [line[:MAX_LINE_CHARS] for line in lines if not _ARGO.match(line)]
    return "\n".join(mine[-LINES:]) or None
