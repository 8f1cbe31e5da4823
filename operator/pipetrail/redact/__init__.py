"""Redaction: what is secret by name, by value or by shape leaves in no record (docs/limits.md).

**By name.** The value of a parameter (of the run or of a step), an output, a tag, an annotation, a key in a loop's item
or in a JSON text among these is secret if the name contains, in any case, ``password``, ``passwd``, ``secret``,
``credential``, ``api key`` or ``private key`` (with ``-``, ``_``, ``.`` or nothing between), or matches one of the
target's `additional_keys`. ``token`` is also a word of everyday machine learning, so it counts only where
- no word of the name (split at ``_ - . /`` and at camelCase) says that it is text or a count (``tokenizer``,
  ``pad_token``, ``max_tokens``, ``tokens_per_second``), and
- the value is not a plain number of at most 15 digits.

A column of a table whose header is such a name is secret too.

**By value.** What is secret by name is replaced wherever it occurs in any text of the record, also as JSON, a URL,
HTML or base64 would write it, and line by line. Values shorter than four characters, plain numbers of less than six
digits and words like ``true`` or ``none`` are replaced in their own place only: anywhere else they would shred the
record.

**By shape.** AWS, Google, GitHub, GitLab, Slack, Hugging Face and OpenAI keys, JSON web tokens, ``Bearer …``, the login
in ``scheme://user:password@host``, PEM private keys, and ``password=…`` in running text.

Names that a manifest declares (of runs, steps, templates, parameters, artifacts), namespaces and uids stay as they are:
they are identity, and anyone who may list the objects knows them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipetrail.record import Record, Table
from pipetrail.redact.forms import REDACTED
from pipetrail.redact.names import Names
from pipetrail.redact.scrub import Scrub

__all__ = ["REDACTED", "redact", "texts"]


def redact(record: Record, *, additional_keys: Sequence[str] = (), secrets: Sequence[str] = ()) -> Record:
    """`record` with every secret replaced by ``<redacted>``; idempotent, and the same object parts where none is.

    `secrets` are values known from elsewhere (credentials of a store) that are scrubbed too. A point that is a
    redacted output parameter, or whose value is a secret number, is dropped.
    """
    names = Names(additional_keys)
    found = set(secrets)
    for mapping in _named(record):
        for name, value in mapping.items():
            found.update(names.values(name, value))
    for name, cell in _columns(record, names):
        found.update(names.values(name, cell))
    return Scrub(names, found).record(record)


def texts(
    named: Iterable[tuple[str, Any]], *, additional_keys: Sequence[str] = (), secrets: Sequence[str] = ()
) -> Callable[[str], str]:
    """The same for texts that are no record (a recording's bodies and logs): by value and by shape.

    `named` are the names and values that stand in them; what is secret among these is scrubbed wherever it occurs.
    """
    names = Names(additional_keys)
    found = set(secrets)
    for name, value in named:
        found.update(names.values(name, value))
    return Scrub(names, found).text


def _named(record: Record) -> Iterator[Mapping[str, Any]]:
    """Every mapping of names to values in `record`."""
    yield from (record.params, record.outputs.parameters, record.tags, record.annotations)
    for step in record.steps:
        yield from (step.params, step.outputs.parameters)
        yield from ({"": turn.item} for turn in step.iteration or ())
        yield from (artifact.metadata for artifact in step.artifacts)


def _columns(record: Record, names: Names) -> Iterator[tuple[str, str]]:
    """The cells below the headers that may be secret names, in every table of `record`."""
    tables = (figure for step in record.steps for figure in step.figures if isinstance(figure, Table))
    for table in tables:
        for at, name in enumerate(table.header):
            if names.maybe(name):
                yield from ((name, row[at]) for row in table.rows if at < len(row))
