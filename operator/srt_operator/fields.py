"""What the typed job says about its own fields: names, defaults, what is allowed. Pure.

Faults, the reference page and (later) the CRD schema read the model through this module only.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from srt_operator.resource_parts import Allowed

Model = type[BaseModel]


def by_alias(model: Model) -> dict[str, FieldInfo]:
    """Fields under the names that files use, in their order."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def names(model: Model, path: Sequence[str | int]) -> list[str]:
    """Names allowed in the part of the job that ``path`` leads to; empty where it is not one."""
    part = _part(model, path)
    return [] if part is None else list(by_alias(part))


def allowed(model: Model, path: Sequence[str | int]) -> str:
    """In words, what the field that ``path`` leads to accepts."""
    for length in range(len(path), 0, -1):  # the path may lead into a list or a union branch
        part = _part(model, path[: length - 1])
        field = by_alias(part).get(str(path[length - 1])) if part else None
        if field is not None:
            return allowed_by(field)
    return "a mapping"


def allowed_by(field: FieldInfo) -> str:
    """In words, what one field accepts."""
    nested = submodel(field.annotation)
    if nested is not None:
        return f"a mapping of {', '.join(by_alias(nested))}"
    annotation, metadata = unwrapped(field.annotation, list(field.metadata))
    for item in metadata:
        if isinstance(item, Allowed):
            return item.text + _bounds(metadata, suffix=True)
    return _of_type(annotation, metadata)


def submodel(annotation: Any) -> Model | None:
    """The model a field holds, also behind ``| None``."""
    inner, _ = unwrapped(annotation, [])
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def with_defaults(model: Model, document: Any) -> dict[str, Any]:
    """``document`` with the defaults of absent fields; required ones stay None.

    Parts that are no mapping count as absent.
    """
    given: Mapping[str, Any] = document if isinstance(document, Mapping) else {}
    filled: dict[str, Any] = {}
    for name, field in by_alias(model).items():
        nested = submodel(field.annotation)
        value = given.get(name)
        if nested is not None and (value is not None or field.default is not None):
            filled[name] = with_defaults(nested, value)
        elif name in given:
            filled[name] = value
        else:
            filled[name] = None if field.default is PydanticUndefined else field.default
    return filled


def walk(model: Model, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field with its dotted path, parts before their fields."""
    for name, field in by_alias(model).items():
        yield prefix + name, field
        if (nested := submodel(field.annotation)) is not None:
            yield from walk(nested, f"{prefix}{name}.")


def _part(model: Model, path: Sequence[str | int]) -> Model | None:
    part: Model | None = model
    for name in path:
        field = by_alias(part).get(str(name)) if part else None
        part = submodel(field.annotation) if field else None
    return part


def unwrapped(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """The type behind ``Annotated`` and ``| None``, with all metadata on the way."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        (inner,) = (a for a in get_args(annotation) if a is not type(None))
        return unwrapped(inner, metadata)
    if hasattr(annotation, "__metadata__"):
        flat = [part for item in annotation.__metadata__ for part in _flat(item)]
        return unwrapped(get_args(annotation)[0], metadata + flat)
    return annotation, metadata


def _flat(item: Any) -> list[Any]:
    return list(item.metadata) if isinstance(item, FieldInfo) else [item]


def _of_type(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Literal:
        return _one_of(get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"a list of {_of_type(*unwrapped(get_args(annotation)[0], []))}"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return ("a whole number" if annotation is int else "a number") + _bounds(metadata)
    return (
        "text"
        + "".join(
            f" of at most {item.max_length} characters"
            for item in metadata
            if isinstance(item, annotated_types.MaxLen)
        )
        if annotation is str
        else "a mapping of text to text"
    )


def _one_of(values: Sequence[Any]) -> str:
    *others, last = (str(value) for value in values)
    return f"{', '.join(others)} or {last}" if others else last


def _bounds(metadata: list[Any], *, suffix: bool = False) -> str:
    low = high = ""
    for item in metadata:
        if isinstance(item, annotated_types.Ge):
            low = f"{item.ge:,}" if suffix else f"from {_number(item.ge)}"
        elif isinstance(item, annotated_types.Gt):
            low = f"above {_number(item.gt)}"
        elif isinstance(item, annotated_types.Le):
            high = f"to {_number(item.le)}"
        elif isinstance(item, annotated_types.Lt):
            high = f"below {_number(item.lt)}"
    if suffix:
        return f", {low} bytes or more" if low else ""
    return "".join(f" {part}" for part in (low, high) if part)


def _number(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
