"""Files that hold numbers: JSON, JSON lines, YAML, CSV, TSV, TensorBoard events, by name and by content.

:func:`read` never raises and never takes more memory or time than its limits allow. The rules of what is a number and
which shapes are known stand in :mod:`~pipetrail.formats.recognised` and :mod:`~pipetrail.formats.tables`.
"""

import codecs
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pipetrail.formats import Content, json_numbers, yaml_numbers
from pipetrail.formats.points import DEFAULT, Limits, Points, best_step_key, is_number, stem, whole
from pipetrail.formats.recognised import add_row, tree
from pipetrail.formats.tables import table
from pipetrail.formats.tensorboard import events

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

_SUFFIXES = ("json", "jsonl", "ndjson", "yaml", "yml", "csv", "tsv")
# Of a file of such a name only its presence and size are of interest. (Not a list of what can be read: a path without
# a known suffix may be a directory.)
_BINARY = (
    "arrow", "bin", "ckpt", "feather", "gguf", "gif", "h5", "hdf5", "jpeg", "jpg", "joblib", "keras", "mp4", "npy",
    "npz", "onnx", "orc", "parquet", "pb", "pdf", "pickle", "pkl", "png", "pt", "pth", "safetensors", "tflite", "ubj",
    "wav",
)  # fmt: skip


def binary(name: str) -> bool:
    """True if a file of this name never gives a number: a model, a picture, a data set in a binary format."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() in _BINARY and "tfevents" not in name


def readable(name: str) -> bool:
    """True if a file of this name can give a number: a known suffix, none, or ``.txt``; or an event file."""
    base = name.rpartition("/")[2]
    return "." not in base or base.rpartition(".")[2].lower() in (*_SUFFIXES, "txt") or "tfevents" in base


def read(name: str, data: bytes, limits: Limits = DEFAULT) -> Content:
    """All numbers of the file `name` (a path inside its artifact).

    Known suffixes say what the file is; any other file is read only if it is JSON or one bare number.
    """
    points = Points(limits)
    if "tfevents" in name.rpartition("/")[2]:
        events(data, points)
        return points.content()
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    known = suffix in _SUFFIXES
    if not data.strip():
        if known:
            points.note("Unreadable", "an empty file")
        return points.content()
    for bom, codec in _BOMS:
        if data.startswith(bom):
            try:
                data = data.decode(codec).encode()
            except UnicodeDecodeError:
                points.note("NotUtf8", f"not {codec}, as its first bytes say")
                return points.content()
            break
    match suffix:
        case "csv":
            table(data, points, delimiter=None)
        case "tsv":
            table(data, points, delimiter="\t")
        case "jsonl" | "ndjson":
            _json_lines(name, data, points)
        case "yaml" | "yml":
            _yaml(name, data, points)
        case "json":
            _json(name, data, points, certain=True)
        case _ if data[:64].lstrip()[:1] in (b"{", b"[") or len(data) <= 64:
            _json(name, data, points, certain=False)
    return points.content()


def _json(name: str, data: bytes, points: Points, *, certain: bool) -> None:
    try:
        if len(data) > points.limits.document_bytes and _json_lines(name, data, points, strict=True):
            return
        value = json_numbers.document(data, points)
    except UnicodeDecodeError as error:
        if certain:
            points.note("NotUtf8", f"not UTF-8 at byte {error.start}")
    except json_numbers.Unparsable as error:
        # pandas and others write JSON lines under the name .json
        if b"\n" in data.strip() and data.lstrip()[:1] == b"{" and _json_lines(name, data, points, strict=True):
            return
        if certain:
            points.note("Unreadable", f"not JSON: {error}")
    else:
        tree(value, stem(name), points)


def _yaml(name: str, data: bytes, points: Points) -> None:
    try:
        value = yaml_numbers.document(data.decode(), points)
    except UnicodeDecodeError as error:
        points.note("NotUtf8", f"not UTF-8 at byte {error.start}")
    except yaml_numbers.Unparsable as error:
        points.note("Unreadable", f"not YAML: {error}")
    else:
        tree(value, stem(name), points)


def _json_lines(name: str, data: bytes, points: Points, *, strict: bool = False) -> bool:
    """Add JSON lines; `strict`: only if the first two lines are objects. Says whether it did."""
    limits = points.limits
    decode = json_numbers.decoder(Points(limits), b"").decode
    texts = (text for text in json_numbers.lines(data, limits.line_bytes) if text is None or text.strip())
    head = [_line(text, decode) for text in islice(texts, 1000)]
    if strict and not all(isinstance(value, dict) for value in head[:2]):
        return False
    objects = [value for value in head if isinstance(value, dict)]
    key = best_step_key(objects)
    single = key is None and len(head) == len(objects) == 1
    decode = json_numbers.decoder(points, data).decode
    bad = index = 0
    for number_of_line, text in enumerate(json_numbers.lines(data, limits.line_bytes), 1):
        if points.full:
            left = data.count(b"\n") + (not data.endswith(b"\n")) - number_of_line + 1
            points.left_out(left)
            break
        if text is not None and not text.strip():
            continue
        match _line(text, decode):
            case Mapping() as row if single:
                tree(row, stem(name), points)
            case Mapping() as row if key is None:
                add_row(row, "", index, points)
            case Mapping() as row:
                add_row(row, "", whole(row.get(key)), points, recognised="step-table", without=key)
            case value if is_number(value):
                points.add(stem(name), value, index)
            case _Bad():
                bad += 1
        index += 1
    if bad:
        points.note("UnreadableLines", f"{bad} lines are not JSON, or longer than {limits.line_bytes} bytes")
    return True


class _Bad:
    """Stands for a line that could not be read."""


def _line(text: str | None, decode: Any) -> Any:
    if text is None:
        return _Bad()
    try:
        return decode(text)
    except (ValueError, RecursionError):
        return _Bad()
