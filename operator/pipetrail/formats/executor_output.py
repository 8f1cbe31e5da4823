"""Logs of KFP's executor pods: what its launcher says there of a step's outputs, and what the program itself printed.

At the log level of KFP's own manifests (``PIPELINE_LOG_LEVEL=1``) the launcher prints, after the program has ended, ::

    I1123 20:21:06.346828      15 launcher_v2.go:1230] ExecutorOutput: {
      "parameterValues": {
    ...
    }

which holds all digits that the metadata store cuts. The log is no authority: the program may print such a block too.
So every block is given, and who reads them compares them with the store.

Lines of others may stand between those of a block (programs leave processes behind). A line is the block's only if it
is one that a JSON printer, indenting by two, could have written there; any other is the program's. A block that was
torn (a rotated or cut log) is noted and gives nothing.
"""

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipetrail.formats import Note
from pipetrail.record import MAX_DIGITS, Frozen

MAX_BLOCKS: Final = 16  #: of one log; the last ones count, since the launcher speaks last
MAX_BLOCK_BYTES: Final = 16 << 20
MAX_BLOCK_LINES: Final = 400_000  #: of one, and of all that are kept
MAX_VALUE_CHARS: Final = 1 << 20  #: of one parameter or one artifact's metadata, as JSON
MAX_DEPTH: Final = 64

_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d) ")
_KLOG: Final = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{1,9} +\d+ [\w./-]{1,100}\.go:\d{1,6}\] ")
_OUTPUT: Final = b"ExecutorOutput: {"
_EXECUTOR: Final = re.compile(rb"\[KFP Executor [^\]]{1,60}\]: ")
_INPUT: Final = b"Got executor_input:"
_EXIT: Final = re.compile(
    rb"(?:Component failed to execute successfully|failed to execute component): exit status (\d+)"
)
_TEXT: Final = rb'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_ENTRY: Final = re.compile(
    rb"(?:" + _TEXT + rb" ?: ?)?(?:(?P<open>[\[{])|(?:" + _TEXT + rb"|-?[0-9][0-9.eE+-]*|true|false|null|\{\}|\[\]),?)"
)
_CLOSE: Final = re.compile(rb"[\]}],?")


class OutputArtifact(Frozen, frozen=True):
    """One artifact of an output: metrics are entries of its `metadata`."""

    uri: str = ""
    metadata: Mapping[str, Any] = {}


class ExecutorOutput(Frozen, frozen=True):
    """One block: parameters by name, artifacts by the output's name (most have one). Values are JSON values."""

    parameters: Mapping[str, Any] = {}
    artifacts: Mapping[str, tuple[OutputArtifact, ...]] = {}


class LauncherLog(Frozen, frozen=True):
    """All that an executor pod's log says. `outputs` in the order of the log; `program` with its lines' stamps."""

    outputs: tuple[ExecutorOutput, ...] = ()
    exit_status: int | None = None  #: of the program, where it failed: the launcher exits 1 whatever it was
    program: bytes = b""
    notes: tuple[Note, ...] = ()


def read(data: bytes) -> LauncherLog:
    """What `data` says, its lines with or without stamps. Never raises; linear in `data`."""
    return _Log().read(data)


class _Log:
    """Reads line by line; `block` gathers the JSON that is being printed."""

    def __init__(self) -> None:
        self._outputs: deque[tuple[ExecutorOutput, int]] = deque()
        self._program: list[bytes] = []
        self._notes: dict[str, Note] = {}
        self._exit: int | None = None
        self._block: _Block | None = None

    def read(self, data: bytes) -> LauncherLog:
        for line in _lines(data):
            stamp = _STAMP.match(line)
            text = line[stamp.end() :] if stamp else line
            if not self._take(text):
                self._program.append(line)
        self._torn()
        program = b"".join(line + b"\n" for line in self._program)
        notes = tuple(self._notes.values())
        outputs = tuple(output for output, _ in self._outputs)
        return LauncherLog(outputs=outputs, exit_status=self._exit, program=program, notes=notes)

    def _take(self, text: bytes) -> bool:
        """True if the line is the launcher's or the executor's, and none of the program's."""
        if self._block is not None and self._block.takes(text):
            if self._block.whole:
                self._finish(self._block)
            return True
        head = _KLOG.search(text)
        if head is not None:
            return self._launcher(text, head)
        if found := _EXECUTOR.match(text):
            if text.startswith(_INPUT, found.end()):
                self._torn()
                self._block = _Block(b"", indent=4, wanted=False)
            return True
        return b"store_session_info" in text  # what is left of a block whose head is missing

    def _launcher(self, text: bytes, head: re.Match[bytes]) -> bool:
        if text.startswith(_OUTPUT, head.end()):
            self._torn()
            self._block = _Block(text[head.end() + len(_OUTPUT) - 1 :], indent=2, wanted=True)
            if self._block.whole:
                self._finish(self._block)
        elif failed := _EXIT.search(text, head.end()):
            self._exit = int(failed[1][:6])
        if head.start():
            self._program.append(text[: head.start()])  # the program ended its output without a newline
        # Errors of the launcher itself tell why a step failed; those with objects in them may hold a component's spec.
        return head[1] in (b"I", b"W") or _EXIT.search(text) is not None or b"{" in text

    def _finish(self, block: "_Block") -> None:
        self._block = None
        if not block.wanted:
            return
        output = _output(block.text(), self._note)
        if output is None:
            return
        self._outputs.append((output, block.lines))
        while len(self._outputs) > MAX_BLOCKS or sum(lines for _, lines in self._outputs) > MAX_BLOCK_LINES:
            self._outputs.popleft()

    def _torn(self) -> None:
        block, self._block = self._block, None
        if block is not None and block.wanted:
            self._note("ExecutorOutputTorn", "the launcher's ExecutorOutput breaks off in the log")

    def _note(self, reason: str, message: str) -> None:
        self._notes.setdefault(reason, Note(reason=reason, message=message))


class _Block:
    """JSON as it is being printed, line by line: what may follow is known from the depth."""

    def __init__(self, first: bytes, *, indent: int, wanted: bool) -> None:
        self.wanted = wanted
        self.whole = False
        self._indent = indent
        self._lines: list[bytes] = []
        self._open: list[bytes] = []
        self._bytes = 0
        self._over = False
        if first:
            self._first(first)

    def _first(self, text: bytes) -> None:
        if text.rstrip() == b"{":
            self._keep(text)
            self._open.append(b"{")
        else:
            self._keep(text)  # all on one line
            self.whole = True

    @property
    def lines(self) -> int:
        """How long the block is."""
        return len(self._lines)

    def takes(self, line: bytes) -> bool:
        """Whether `line` goes on with the block; it is kept then."""
        depth = len(self._open)
        if not depth:
            if self._lines or line.rstrip() != b"{":
                return False
            self._open.append(b"{")
            self._keep(line)
            return True
        body = line.lstrip(b" ")
        indent = len(line) - len(body)
        if indent == self._indent * (depth - 1) and _CLOSE.fullmatch(body):
            if (self._open[-1] == b"{") != body.startswith(b"}") or (depth == 1 and body != b"}"):
                return False
            self._open.pop()
            self._keep(line)
            self.whole = not self._open
            return True
        if indent != self._indent * depth or (entry := _ENTRY.fullmatch(body)) is None:
            return False
        if entry["open"]:
            if depth >= MAX_DEPTH:
                return False
            self._open.append(entry["open"])
        self._keep(line)
        return True

    def _keep(self, line: bytes) -> None:
        self._bytes += len(line)
        if not self.wanted:
            self._lines[:] = [b"{"]  # what went in is not read here
        elif self._bytes > MAX_BLOCK_BYTES or len(self._lines) >= MAX_BLOCK_LINES:
            self._over = True
            self._lines[:] = [b"{"]
        elif not self._over:
            self._lines.append(line)

    def text(self) -> bytes | None:
        """The whole block; null if it is longer than what is read."""
        return None if self._over else b"\n".join(self._lines)


def _output(text: bytes | None, note: Any) -> ExecutorOutput | None:
    if text is None:
        note("ExecutorOutputTooLong", f"an ExecutorOutput of more than {MAX_BLOCK_BYTES >> 20} MiB is not read")
        return None
    try:
        value = json.loads(text.decode(), parse_int=_integer, parse_constant=_none)
    except (ValueError, RecursionError):
        note("ExecutorOutputTorn", "the launcher's ExecutorOutput can't be read: lines of it are missing")
        return None
    if not isinstance(value, dict):
        return None
    parameters, artifacts = value.get("parameterValues"), value.get("artifacts")
    kept = {
        name: given
        for name, given in (parameters.items() if isinstance(parameters, dict) else ())
        if _fits(given, f"output {name}", note)
    }
    found = {
        name: made
        for name, listed in (artifacts.items() if isinstance(artifacts, dict) else ())
        if (made := tuple(_artifacts(name, listed, note)))
    }
    return ExecutorOutput(parameters=kept, artifacts=found)


def _artifacts(name: str, listed: Any, note: Any) -> Iterator[OutputArtifact]:
    items = listed.get("artifacts") if isinstance(listed, dict) else None
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            uri, metadata = item.get("uri"), item.get("metadata")
            kept = metadata if isinstance(metadata, dict) and _fits(metadata, f"metadata of {name}", note) else {}
            yield OutputArtifact(uri=uri if isinstance(uri, str) else "", metadata=kept)


def _fits(value: Any, what: str, note: Any) -> bool:
    if not isinstance(value, dict | list | str):
        return True
    length = len(value) if isinstance(value, str) else len(json.dumps(value))
    if length > MAX_VALUE_CHARS:
        note("ValueTooLong", f"{what[:200]} has {length} characters in the log; up to {MAX_VALUE_CHARS} are read")
    return length <= MAX_VALUE_CHARS


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= MAX_DIGITS else None


def _none(name: str) -> None:
    """NaN and the infinities are no JSON; KFP refuses an output that has them."""
    raise ValueError(name)


def _lines(data: bytes) -> Iterator[bytes]:
    at, end = 0, len(data)
    while at < end:
        stop = data.find(b"\n", at)
        stop = end if stop < 0 else stop
        yield data[at : stop - 1] if data[at:stop].endswith(b"\r") else data[at:stop]
        at = stop + 1
