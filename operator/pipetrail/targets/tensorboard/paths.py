"""What folders and files are called: readable, and safe whatever a user called an experiment, a run or a step. Pure.

A folder's path below the target's directory is what TensorBoard calls the run, and our handle for it. Two runs of one
name are told apart by a piece of a hash on the later one; the name is no key: which run a folder holds is in its file.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from pipetrail.targets.changes import marked

PART_BYTES: Final = 200  # of 255 that file systems allow: room for a mark
EXPERIMENT_PARTS: Final = 6
OWN: Final = ".pipetrail"
MARKS: Final = (4, 8, 16)

# Controls, formats (as right-to-left marks), lone surrogates, private and unassigned characters, line separators.
_UNREADABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_EVENT_FILE: Final = re.compile(r"events\.out\.tfevents\.[0-9]{10,12}\.([0-9a-f]{16})")


def digest(key: str) -> str:
    """What stands for a tracker run's key in file names (64 bits of its sha256)."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def event_file(started: datetime, key: str) -> str:
    """``events.out.tfevents.<start>.<key>``."""
    return f"events.out.tfevents.{int(started.timestamp()):010d}.{digest(key)}"


def owner(name: str) -> str:
    """The digest in a file name of ours; empty if it is none."""
    match = _EVENT_FILE.fullmatch(name)
    return match[1] if match else ""


def part(text: str) -> str:
    """`text` as one folder name: no separator, nothing hidden or unreadable, of at most :data:`PART_BYTES` bytes."""
    clean = "".join("_" if unicodedata.category(c) in _UNREADABLE else c for c in text)
    clean = clean.strip().replace("/", ".").replace("\\", ".")
    if clean.startswith("."):
        clean = "_" + clean[1:]
    if len(clean.encode()) <= PART_BYTES:
        return clean or "_"
    kept = clean.encode()[: PART_BYTES - 5].decode(errors="ignore")
    return marked(kept, text, len(kept) + 5)


def experiment(name: str) -> tuple[str, ...]:
    """An experiment's folders: ``team-a/churn`` is two."""
    parts = [p for p in name.split("/") if p.strip()]
    head, rest = parts[: EXPERIMENT_PARTS - 1], parts[EXPERIMENT_PARTS - 1 :]
    return tuple(map(part, [*head, "/".join(rest)] if rest else head)) or ("_",)


def candidates(name: str, key: str) -> Iterator[str]:
    """Folder names for a run or step, the plain one first."""
    plain = part(name)
    yield plain
    for digits in MARKS:
        yield f"{plain}-{digest(key)[:digits]}"


def parts(handle_id: str) -> tuple[str, ...] | None:
    """The folders of a handle; None if it is none of ours (a path that would leave the directory, say)."""
    found = tuple(handle_id.split("/"))
    return found if 2 <= len(found) <= EXPERIMENT_PARTS + 2 and all(_safe(p) for p in found) else None


def file(path: str) -> tuple[str, ...]:
    """The folders and the name of a small file, below its run's folder; never one that TensorBoard would read."""
    found = (part(p).replace("tfevents", "tf_events") for p in path.split("/") if p.strip(". "))
    return tuple(found)[-EXPERIMENT_PARTS:] or ("file",)


def index(root: str) -> tuple[str, ...]:
    """Where it stands in which folder the run of a root key lies: found whatever it is called by now."""
    whole = hashlib.sha256(root.encode("utf-8", "surrogatepass")).hexdigest()
    return (OWN, "runs", whole[:2], whole[2:32])


def _safe(name: str) -> bool:
    return bool(name) and not name.startswith(".") and "\x00" not in name and len(name.encode(errors="replace")) <= 255
