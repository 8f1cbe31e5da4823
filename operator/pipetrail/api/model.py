"""What all types of the API are built from: the base struct, documented fields, rules, and the small shared shapes.

A :class:`Rule` is one sentence of the API's law, written twice side by side: in CEL for the API server, in Python for
objects that came past it (an older server, a file given to ``preview``). tests/cluster holds the two side by side.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

GROUP: Final = "pipetrail.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"


class Rule(msgspec.Struct, frozen=True):
    """What must hold of a value: `cel` over ``self``, `holds` over the same value here, `message` names the fix."""

    cel: str
    message: str
    holds: Callable[[Any], bool]


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the API's types: immutable, camelCase in JSON, absent where it is the default.

    `RULES` hold for the object as a whole, `SCHEMA` is added to its OpenAPI schema.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()
    SCHEMA: ClassVar[Mapping[str, Any]] = {}


def doc(text: str, *rules: Rule, **limits: Any) -> Meta:
    """What ``kubectl explain`` says of a field, the rules for its value, and msgspec's own limits."""
    return Meta(description=text, extra={"rules": rules} if rules else None, **limits)


def listed(text: str, *, most: int, kind: Literal["set", "atomic", "map"] = "set", key: str = "") -> Meta:
    """The same for a list: `kind` says how server-side apply merges it (a map by `key`)."""
    extra: dict[str, Any] = {"x-kubernetes-list-type": kind}
    if key:
        extra["x-kubernetes-list-map-keys"] = [key]
    return Meta(description=text, max_length=most, extra_json_schema=extra)


ATOMIC: Final = {"x-kubernetes-map-type": "atomic"}
UNBOUNDED: Final = 8192
"""Characters of a text in a status: nothing of ours is as long, but no text in the API is without a limit."""
