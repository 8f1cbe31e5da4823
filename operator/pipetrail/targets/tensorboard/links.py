"""Addresses of TensorBoard's pages (seen in 2.21): its run filter is a regular expression in the query. Pure."""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from pipetrail.targets.target import Handle

_SIGN: Final = re.compile(r"[\\^$.*+?()\[\]{}|]")


def run_page(base: str, run: str) -> str:
    """The curves of one run and of its children; empty without the address of a TensorBoard."""
    return f"{base}/?runFilter={quote(_exactly(run), safe='')}#timeseries" if base else ""


def with_compare(note: str, base: str, children: Sequence[Handle]) -> str:
    """`note` with a link to the curves of all children in front, beside which their params are columns."""
    if not base or len(children) < 2:
        return note
    parent = children[0].id.rpartition("/")[0]
    link = f"[Compare the {len(children)} runs of this sweep]({run_page(base, parent)})"
    return f"{link} · {note}" if note else link


def _exactly(run: str) -> str:
    """Matches the run and what lies below it, also where TensorBoard shows a folder above the target's."""
    return f"(^|/){_SIGN.sub(lambda m: chr(92) + m[0], run)}(/|$)"
