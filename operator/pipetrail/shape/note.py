"""The description of a tracker run: markdown for people, with the links that trackers draw nowhere else (mapping §3).

What users and their programs wrote (names, messages, log lines) stands in code spans and fences only, so that it is
never a link, HTML or an end of the fence. Addresses are the admin's own (:class:`~pipetrail.settings.Places`), their
parts percent-encoded.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from pipetrail.api import Capture
from pipetrail.record import Outcome, Record, Step
from pipetrail.settings import Places
from pipetrail.shape.layout import Place

MAX_FAILURES: Final = 3
MAX_LINES: Final = 20
MAX_LINE: Final = 500
MAX_PARTIAL: Final = 5
_SAYS_NOTHING: Final = re.compile(r"(?:main: )?(?:Error|OOMKilled) \(exit code \d+\)")  # more than reason and code
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
FAILED: Final = frozenset({"failed", "error"})


def run_url(record: Record, places: Places) -> str | None:
    """The run in Argo's pages; the uid finds it there also when it is archived, or its name has come back."""
    if places.argo_ui is None:
        return None
    path = f"workflows/{quote(record.namespace, safe='')}/{quote(record.name, safe='')}"
    return f"{places.argo_ui.rstrip('/')}/{path}?uid={quote(record.key.uid, safe='')}"


def parent(record: Record, steps: Sequence[Place], places: Places, capture: Capture, commit: str | None) -> str:
    """The parent's description. Failed steps come with reason and last lines; a leaf, not what is around it."""
    blocks = [_head(record, places), *_failures(record, steps, places, capture)]
    source = [f"Commit {code(commit)}"] if commit is not None else []
    source += [f"Source {code(link.href)}" for link in record.links if link.rel == "git"][:MAX_FAILURES]
    if source:
        blocks.append(" · ".join(source))
    if record.outcome.settled and record.partial:
        lines = [f"- {code(p.reason)} {code(p.message)}" for p in record.partial[:MAX_PARTIAL]]
        if len(record.partial) > MAX_PARTIAL:
            lines.append(f"- and {len(record.partial) - MAX_PARTIAL} more")
        blocks.append("Not known:\n\n" + "\n".join(lines))
    blocks.append(fence(f"kubectl get workflow -n {record.namespace} {record.name}"))
    return "\n\n".join(blocks)


def child(record: Record, steps: Sequence[Place], name: str, places: Places, capture: Capture) -> str:
    """A child's description: which run it belongs to, and how its steps failed."""
    head = f"{code(name)} of {_linked(record, places)}"
    return "\n\n".join([head, *_failures(record, steps, places, capture)])


def _head(record: Record, places: Places) -> str:
    status = record.outcome.status
    plain = record.outcome.reason in (None, "StepFailed") or record.outcome.reason.lower() == status
    why = [] if plain else _reasons(record.outcome)
    text = f"{_linked(record, places)} in namespace {code(record.namespace)}"
    return f"{text}: **{status.replace('_', ' ')}**" + (f" ({', '.join(why)})" if why else "")


def _linked(record: Record, places: Places) -> str:
    url = run_url(record, places)
    name = f"Argo workflow {code(record.name)}" if record.source == "argo" else f"run {code(record.name)}"
    return name if url is None else f"[{name}]({url})"


def _failures(record: Record, steps: Sequence[Place], places: Places, capture: Capture) -> list[str]:
    failed = [p for p in steps if p.step.outcome.status in FAILED]
    leaves = [p for p in failed if p.step.kind != "composite"] or failed
    blocks = [_failure(record, place, places, capture) for place in leaves[:MAX_FAILURES]]
    if len(leaves) > MAX_FAILURES:
        blocks.append(f"and {len(leaves) - MAX_FAILURES} more failed steps")
    if not leaves and record.outcome.message and record.outcome.status not in ("succeeded", "running"):
        blocks.append(fence(record.outcome.message))
    return blocks


def _failure(record: Record, place: Place, places: Places, capture: Capture) -> str:
    step = place.step
    name = step.path + (f" {place.turn.label}" if place.turn else "")
    why = _reasons(step.outcome)
    attempts = f" after {len(step.attempts)} attempts" if len(step.attempts) > 1 else ""
    head = f"Step {code(name or step.name)} **{step.outcome.status}**{attempts}"
    head += f": {', '.join(why)}" if why else ""
    if (url := _logs(record, step, places)) is not None:
        head += f" ([logs]({url}))"
    tail = step.log_tail or "" if capture.logs != "Never" else ""
    message = step.outcome.message or ""
    parts = [text for text in (message, tail) if text.strip() and not _SAYS_NOTHING.fullmatch(text.strip())]
    return "\n\n".join([head, *(fence(text) for text in parts)])


def _reasons(outcome: Outcome) -> list[str]:
    why = [code(outcome.reason)] if outcome.reason else []
    return why + ([f"exit code {outcome.exit_code}"] if outcome.exit_code else [])


def _logs(record: Record, step: Step, places: Places) -> str | None:
    pod = next((a.pod for a in reversed(step.attempts) if a.pod), None)
    if places.logs_url is None or pod is None:
        return None
    return places.logs_url.replace("{namespace}", quote(record.namespace, safe="")).replace(
        "{pod}", quote(pod, safe="")
    )


def code(text: str) -> str:
    """`text` as one code span: nothing in it is markdown or HTML to a reader."""
    plain = " ".join(_printable(_ANSI.sub("", text)).split())
    plain = plain.replace("`", "'")
    return f"`{plain[:MAX_LINE] or ' '}`"


def _printable(text: str, *, but: str = "") -> str:
    """With a space for each character that a reader can't see, except those in `but`."""
    if text.isprintable():  # nearly always, and a look at each character costs a third of a note
        return text
    return "".join(c if c.isprintable() or c in but else " " for c in text)


def fence(text: str) -> str:
    """The last lines of `text` in a fence that is longer than any run of backticks in it."""
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    lines = [_printable(line, but="\t") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    kept = [line if len(line) <= MAX_LINE else line[:MAX_LINE] + " …" for line in lines[-MAX_LINES:]]
    ticks = max((len(run) for line in kept for run in re.findall(r"`+", line)), default=0)
    mark = "`" * max(3, ticks + 1)
    return "\n".join([mark, *kept, mark])
