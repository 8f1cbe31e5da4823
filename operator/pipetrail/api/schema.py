"""From the types to structural OpenAPI v3 as the API server wants it: no $ref, no null, a type everywhere.

The server's rules: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
(structural schemas, validation rules). Rules are priced by the limits of what they look at, so every text, list and
map that a rule can reach has one.
"""

from typing import Any

import msgspec
from msgspec import inspect

from pipetrail.api.model import Model, Rule


def schema_of(model: type[Model], *, rules: bool = True, defaults: bool = True) -> dict[str, Any]:
    """The structural schema of `model`. `rules` and `defaults` say whether those of its fields come along.

    Defaults are those of single values, never of objects: a rule on an object with a partial default fails when the CRD
    is created, and an object that nobody wrote would be there.
    """
    return _Writer(rules=rules, defaults=defaults).struct(inspect.type_info(model))


def model_of(info: inspect.StructType) -> type[Model]:
    """The class behind a struct's description; every struct of the API is a :class:`Model`."""
    assert issubclass(info.cls, Model)
    return info.cls


class _Writer:
    def __init__(self, *, rules: bool, defaults: bool) -> None:
        self._rules = rules
        self._defaults = defaults

    def struct(self, info: inspect.Type) -> dict[str, Any]:
        assert isinstance(info, inspect.StructType)
        model = model_of(info)
        properties = {field.encode_name: self._field(field) for field in info.fields}
        required = [field.encode_name for field in info.fields if field.required]
        return {
            "type": "object",
            "description": _plain(model.__doc__ or ""),
            **({"required": required} if required else {}),
            "properties": properties,
            **model.SCHEMA,
            **self._validations(model.RULES),
        }

    def _field(self, field: inspect.Field) -> dict[str, Any]:
        schema = self.of(field.type)
        default = field.default
        if self._defaults and isinstance(default, str | int | bool):
            schema["description"] += f" Default: {_shown(default)}."
            schema["default"] = default
        return _ordered(schema)

    def of(self, info: inspect.Type) -> dict[str, Any]:
        match info:
            case inspect.Metadata(type=inner, extra_json_schema=extra):
                rules: tuple[Rule, ...] = (info.extra or {}).get("rules", ())
                schema = self.of(inner)
                kept = schema.get("x-kubernetes-validations", [])
                schema |= {k: _plain(v) if k == "description" else v for k, v in (extra or {}).items()}
                added = self._validations(rules).get("x-kubernetes-validations", [])
                return schema | ({"x-kubernetes-validations": [*kept, *added]} if kept or added else {})
            case inspect.StructType():
                return self.struct(info)
            case inspect.LiteralType(values=values) if "Off" in values and self._rules:
                # kubectl reads YAML 1.1, where a bare On is true: decode.py takes both for what was meant. Without a
                # type this is the one form that may be either.
                return {"x-kubernetes-preserve-unknown-fields": True, "enum": [*values, False, True]}
            case inspect.LiteralType(values=values):
                return {"type": "string", "enum": list(values)}
            case inspect.StrType(min_length=least, max_length=most):
                return {"type": "string", **_limits("Length", least, most)}
            case inspect.BoolType():
                return {"type": "boolean"}
            case inspect.IntType(ge=least, le=most):
                return {"type": "integer", "format": "int64", **_limits("imum", least, most)}
            case inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
                return {"type": "array", **_limits("Items", least, most), "items": _ordered(self.of(item))}
            case inspect.DictType(value_type=value, max_length=most):
                return {
                    "type": "object", **_limits("Properties", None, most),
                    "additionalProperties": _ordered(self.of(value)),
                }  # fmt: skip
        raise TypeError(f"no structural schema for {info}")

    def _validations(self, rules: tuple[Rule, ...]) -> dict[str, Any]:
        # The immutable intent is the one rule of an object whose parts were judged when they were a target's.
        chosen = [rule for rule in rules if self._rules or "oldSelf" in rule.cel]
        return {"x-kubernetes-validations": [{"rule": r.cel, "message": r.message} for r in chosen]} if chosen else {}


def _limits(noun: str, least: int | None, most: int | None) -> dict[str, int]:
    return {f"{side}{noun}": value for side, value in (("min", least), ("max", most)) if value is not None}


def _ordered(schema: dict[str, Any]) -> dict[str, Any]:
    first = ("description", "type", "format", "default", "enum")
    return {k: schema[k] for k in first if k in schema} | {k: v for k, v in schema.items() if k not in first}


def _plain(text: str) -> str:
    """Prose for ``kubectl explain``: paragraphs on one line each, without reST's marks."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs).replace("``", "`")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
