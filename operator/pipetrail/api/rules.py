"""The rules of the API that are more than a type, a limit or an enum. Each message names the field's fix."""

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from pipetrail.api.model import Rule

EXPERIMENT_PLACEHOLDERS: Final = ("pipeline", "namespace")
RUN_PLACEHOLDERS: Final = ("run", "pipeline", "namespace")
METRIC_PLACEHOLDERS: Final = ("step", "metric")
UNIT_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = r"^([0-9]{1,6}([.][0-9]{1,6})?(ms|s|m|h)){1,3}$"
_LONGEST_S: Final = 290 * 365 * 24 * 3600  # CEL's durations are int64 nanoseconds


def seconds(duration: str) -> float:
    """A duration such as ``1h30m`` in seconds; raises ValueError if it is none."""
    if re.fullmatch(_DURATION, duration) is None:
        raise ValueError(f"{duration!r} is no duration: write it as 30s, 10m or 168h")
    return sum(float(number) * UNIT_S[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", duration))


def _matches(pattern: str, message: str) -> Rule:
    """`pattern` is RE2 for the server and Python's here: it uses what means the same in both."""
    compiled = re.compile(re.sub(r"\$$", r"\\Z", pattern))
    quoted = pattern.replace("\\", "\\\\").replace("'", "\\'")
    return Rule(f"self.matches('{quoted}')", message, lambda text: compiled.search(text) is not None)


def _positive(text: str) -> bool:
    return re.fullmatch(_DURATION, text) is not None and 0 < seconds(text) <= _LONGEST_S


def _has_host(text: str) -> bool:
    if re.search(r"[\x00-\x20\x7f<>\"{}|\\^`]", text):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        return False


HTTP_ADDRESS: Final = (
    _matches("^https?://", "start it with http:// or https://, as in http://mlflow.mlflow.svc:5000"),
    _matches("^[^/]*//[^/@]*(/.*)?$", "put credentials in auth, not in the address"),
    _matches("^[^?#]*$", "leave out the query (?) and the fragment (#): give the server's address alone"),
    Rule(
        "!self.matches('^https?://') || (isURL(self) && url(self).getHostname() != '')",
        "name a host that can be called, as in http://mlflow.mlflow.svc:5000",
        lambda text: re.match("https?://", text) is None or _has_host(text),
    ),
)

POSITIVE_DURATION: Final = Rule(
    f"self.matches('{_DURATION}') && duration(self) > duration('0s')",
    "write a duration of more than zero in h, m, s or ms, as in 30s, 10m or 168h (a week)",
    _positive,
)

NEPTUNE_PROJECT: Final = _matches(
    "^[A-Za-z0-9_.-]+/[A-Za-z0-9_. -]+$", "write workspace and project with a slash between them, as in team/churn"
)
RELATIVE_PATH: Final = _matches(
    "^([A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*)?$",
    "write a folder relative to the target's own, without a leading / and without .., as in churn or churn/daily",
)

OBJECT_NAME: Final = _matches(
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    "give the object's name: lower-case letters, digits, '-' and '.', without a namespace",
)
DATA_KEY: Final = _matches(
    "^[-._a-zA-Z0-9]+$", "give one key of the object's data: letters, digits, '-', '_' and '.', as in token or ca.crt"
)
LABEL_KEY: Final = _matches(
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    "give a label's key, as in team or example.com/team",
)
LABEL_VALUE: Final = _matches(
    r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
    "give a label's value: letters, digits, '-', '_' and '.', as in churn",
)
VALUES_FIT_OPERATOR: Final = Rule(
    "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
    "give values with In and NotIn, and none with Exists and DoesNotExist",
    lambda it: (it.operator in ("In", "NotIn")) == bool(it.values),
)

NAME_GLOB: Final = _matches(
    r"^[^\^$\n]+$", "write a glob (*, ?, [abc]) for the pipeline's whole name, as in churn-*, not a regular expression"
)
FILE_GLOB: Final = _matches(
    r"^[^/\n][^\n]*$", "write a glob for artifact/file without a leading /, as in *.metrics.json or report/*.csv"
)
KEY_GLOB: Final = _matches(r"^[^\n]+$", "write a glob for a parameter's name on one line, as in *_dsn")


def placeholders(field: str, known: Iterable[str], example: str) -> Rule:
    """Every brace in a naming template belongs to a placeholder that `field` knows."""
    names = "|".join(known)
    told = ", ".join(f"{{{name}}}" for name in known)
    return _matches(rf"^([^{{}}]|[{{]({names})[}}])+$", f"naming.{field} knows {told} and no other braces: {example}")


METRIC_IS_NAMED: Final = Rule(
    "self.contains('{metric}')",
    "naming.metric must hold {metric}, or all metrics would share one name: {step}/{metric}",
    lambda text: "{metric}" in text,
)
UNIQUE_INTENT: Final = Rule(
    "self == oldSelf",
    "spec is the intent and never changes: to send the run again use pipetrail resend",
    lambda _: True,
)


def exactly_one(fields: Iterable[str], message: str) -> Rule:
    """A union by key: one of `fields` (camelCase; attributes of the same name but for case) is there."""
    names = tuple(fields)
    cel = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names) + " == 1"
    attributes = [re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), name) for name in names]

    def holds(value: Any) -> bool:
        return sum(bool(getattr(value, attribute)) for attribute in attributes) == 1

    return Rule(cel, message, holds)
