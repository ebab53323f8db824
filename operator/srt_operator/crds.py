"""CustomResourceDefinitions made from the typed resources: ``python -m srt_operator.crds FOLDER``.

* Structural schemas: bounds and defaults from the types, CEL from the table in `rules`.
* A test compares them with what lies in the chart, so they cannot drift.
* Everything that CEL touches is bounded, so that the API server can estimate what a rule costs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from srt_operator import fields, quantities, rules
from srt_operator.caches import TreeCacheSpec
from srt_operator.constants import GROUP, VERSION, Kind
from srt_operator.pools import RolloutPoolSpec
from srt_operator.resource_parts import ListKey, Part
from srt_operator.resources import SRTJobSpec
from srt_operator.status import RolloutPoolStatus, SRTJobStatus, TreeCacheStatus

HEAD: Final = "# Made by `python -m srt_operator.crds`; do not edit.\n"
KEEP: Final = "    helm.sh/resource-policy: keep\n"
TAKEOVER: Final = '    # {{{{- include "srt-crds.takeover" (list $ "{name}") }}}}\n'
"""Where Helm may add to the metadata of a definition that is there already; else a comment."""
MAX_BYTES: Final = 100_000
_NAME_RULE: Final = {
    "rule": "size(self.metadata.name) <= 40",
    "message": "metadata.name: allowed are at most 40 characters, for names of children add to it",
}

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a kind adds to its schema."""

    kind: Kind
    short_name: str
    spec: type[Part]
    status: type[Part]
    columns: Sequence[tuple[str, str, str, int]]
    """Name, type, JSON path, priority."""
    is_scalable: bool = False
    categories: tuple[str, ...] = ("srt",)
    needs_spec: bool = True

    @property
    def plural(self) -> str:
        """As the API spells it."""
        return self.kind.plural


def _when(condition: str) -> str:
    return f'.status.conditions[?(@.type=="{condition}")].status'


DEFINITIONS: Final[Sequence[Definition]] = (
    Definition(
        kind=Kind.SRT_JOB,
        short_name="srtj",
        spec=SRTJobSpec,
        status=SRTJobStatus,
        categories=("srt", "all"),
        columns=(
            ("Phase", "string", ".status.phase", 0),
            ("Step", "string", ".status.progress.display", 0),
            ("Rollout", "string", ".status.rollout.display", 0),
            ("HitRate", "string", ".status.cache.hitRate", 0),
            ("RunAhead", "integer", ".status.runAhead.completed", 1),
            ("Complete", "string", _when("Complete"), 1),
            ("Failed", "string", _when("Failed"), 1),
        ),
    ),
    Definition(
        kind=Kind.ROLLOUT_POOL,
        short_name="rpool",
        spec=RolloutPoolSpec,
        status=RolloutPoolStatus,
        is_scalable=True,
        columns=(
            ("Ready", "integer", ".status.readyReplicas", 0),
            ("Desired", "integer", ".spec.replicas", 0),
            ("Up-to-date", "integer", ".status.updatedReplicas", 0),
            ("Policy", "integer", ".status.policyVersion", 0),
            ("GPU", "string", ".status.gpuUtilization", 0),
        ),
    ),
    Definition(
        kind=Kind.TREE_CACHE,
        short_name="tcache",
        spec=TreeCacheSpec,
        status=TreeCacheStatus,
        needs_spec=False,
        columns=(
            ("Ready", "string", _when("Ready"), 0),
            ("Replicas", "string", ".status.display", 0),
            ("Shards", "integer", ".spec.shards", 0),
            ("Prompts", "integer", ".status.prompts", 0),
            ("Memory", "string", ".status.memory", 0),
        ),
    ),
)


def document(what: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    subresources: dict[str, Any] = {"status": {}}
    if what.is_scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    columns = [*what.columns, ("Age", "date", ".metadata.creationTimestamp", 0)]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{what.plural}.{GROUP}",
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": str(what.kind),
                "listKind": f"{what.kind}List",
                "plural": what.plural,
                "singular": what.kind.lower(),
                "shortNames": [what.short_name],
                "categories": list(what.categories),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(*column) for column in columns],
                    "schema": {"openAPIV3Schema": _root(what)},
                }
            ],
        },
    }


def rendered(what: Definition) -> str:
    """The file of one kind."""
    found = document(what)
    text = yaml.safe_dump(found, sort_keys=False, width=100)
    return HEAD + text.replace(KEEP, KEEP + TAKEOVER.format(name=found["metadata"]["name"]), 1)


def schema_of(model: type[BaseModel]) -> Schema:
    """Structural schema of one part."""
    properties, required = {}, []
    for name, field in fields.by_alias(model).items():
        properties[name] = _field(field)
        if field.is_required():
            required.append(name)
    schema: Schema = {"type": "object", "properties": properties}
    return schema | ({"required": required} if required else {})


def _root(what: Definition) -> Schema:
    spec = schema_of(what.spec)
    checks = [*map(_check(what), rules.RULES[what.kind]), *_transitions(what)]
    if checks:
        spec["x-kubernetes-validations"] = checks
    if not what.needs_spec:  # written out: rules are tried on it before its fields are filled in
        parts = spec["properties"].items()
        spec["default"] = {name: part["default"] for name, part in parts if "default" in part}
    root: Schema = {
        "type": "object",
        "description": " ".join((what.spec.__doc__ or "").split()),
        "x-kubernetes-validations": [_NAME_RULE],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": schema_of(what.status),
        },
    }
    return root | ({"required": ["spec"]} if what.needs_spec else {})


def _column(name: str, kind: str, path: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})


# -- fields
def _field(field: FieldInfo) -> Schema:
    annotation, metadata = fields.unwrapped(field.annotation, list(field.metadata))
    schema = _type(annotation, metadata)
    if field.description:
        described = " ".join(field.description.split()).replace("``", "`")
        schema = {"description": described} | schema
    if (default := _default(field)) is not None:
        schema["default"] = default
    return schema


def _default(field: FieldInfo) -> Any:
    """What the API server fills in; None: nothing."""
    if field.default_factory is not None or field.default in (PydanticUndefined, None):
        return None
    if isinstance(field.default, BaseModel):
        return {}  # the defaults inside are filled in by their own fields
    if any(getattr(item, "text", "") == quantities.ALLOWED for item in field.metadata):
        return quantities.format_bytes(field.default)
    return json.loads(json.dumps(field.default))


def _type(annotation: Any, metadata: Sequence[Any]) -> Schema:
    if any(getattr(item, "text", "") == quantities.ALLOWED for item in metadata):
        return _int_or_string(pattern=quantities.PATTERN) | _at_least(metadata)
    if quantities.as_text in (getattr(item, "func", None) for item in metadata):
        pattern = next(p for item in metadata if (p := getattr(item, "pattern", None)))
        return _int_or_string(pattern=pattern)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return schema_of(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        values = list(get_args(annotation))
        return {"type": "string" if isinstance(values[0], str) else "integer", "enum": values}
    if origin in (tuple, dict):
        return _collection(annotation, metadata)
    return _scalar(annotation, metadata)


def _int_or_string(*, pattern: str) -> Schema:
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": pattern,
        "maxLength": 32,
    }


def _at_least(metadata: Sequence[Any]) -> Schema:
    """A bound of a number of bytes, which may be written with a suffix."""
    for item in metadata:
        if isinstance(item, annotated_types.Ge):
            least = quantities.format_bytes(int(str(item.ge)))
            rule = (
                f"type(self) == int ? self >= {item.ge} : "
                f"quantity(self).compareTo(quantity('{least}')) >= 0"
            )
            message = f"allowed is {least} or more"
            return {"x-kubernetes-validations": [{"rule": rule, "message": message}]}
    return {}


def _collection(annotation: Any, metadata: Sequence[Any]) -> Schema:
    is_list = get_origin(annotation) is tuple
    inner = get_args(annotation)[0 if is_list else 1]
    if inner is Any:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    items = _type(*fields.unwrapped(inner, []))
    limits = [item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)]
    if not is_list:
        items = items if "maxLength" in items else items | {"maxLength": 253}
        sized = {"maxProperties": limits[0]} if limits else {}
        return {"type": "object", "additionalProperties": items} | sized
    schema: Schema = {"type": "array", "items": items, "maxItems": limits[0]}
    if key := next((item.key for item in metadata if isinstance(item, ListKey)), None):
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return schema


_NUMBERS: Final = {
    annotated_types.Ge: ("ge", "minimum", False),
    annotated_types.Gt: ("gt", "minimum", True),
    annotated_types.Le: ("le", "maximum", False),
    annotated_types.Lt: ("lt", "maximum", True),
}


def _scalar(annotation: Any, metadata: Sequence[Any]) -> Schema:
    if annotation is bool:
        return {"type": "boolean"}
    if annotation in (int, float):
        return _number(annotation, metadata)
    if issubclass(annotation, str) and hasattr(annotation, "__members__"):
        return {"type": "string", "enum": [str(member) for member in annotation]}
    schema: Schema = {"type": "string"}
    for item in metadata:
        if isinstance(item, annotated_types.MaxLen):
            schema["maxLength"] = item.max_length
        elif isinstance(item, annotated_types.MinLen):
            schema["minLength"] = item.min_length
        elif pattern := getattr(item, "pattern", None):
            schema["pattern"] = pattern
    return schema


def _number(annotation: Any, metadata: Sequence[Any]) -> Schema:
    schema: Schema = {"type": "integer", "format": "int64"}
    if annotation is float:
        schema = {"type": "number"}
    for item in metadata:
        if type(item) in _NUMBERS:
            attribute, name, is_exclusive = _NUMBERS[type(item)]
            schema[name] = getattr(item, attribute)
            if is_exclusive:
                schema["exclusive" + name.capitalize()] = True
    return schema


# -- rules
def _check(what: Definition) -> Any:
    def check(rule: rules.Rule) -> Schema:
        guards = [f"!has({_self(part)})" for part in _optional_parts(what.spec, rule.fields)]
        condition = rule.cel.format(*map(_self, rule.fields))
        allowed = rule.allowed.format(*map(_leaf, rule.fields))
        return {
            "rule": " || ".join([*guards, f"({condition})" if guards else condition]),
            "message": f"{rule.fields[0]}: allowed is {allowed}",
        } | ({"messageExpression": _message(rule)} if rule.shows_value else {})

    return check


def _message(rule: rules.Rule) -> str:
    """The sentence that Python would say, as a CEL expression.

    One ``format``: joining with ``+`` costs too much, as the API server estimates it.
    """
    sentence = f"{rule.fields[0]} is {{0}}: allowed is {rule.allowed}"
    shown = [f"string({_self(rule.fields[int(n)])})" for n in re.findall(r"\{(\d)\}", sentence)]
    text = re.sub(r"\{\d\}", "%s", sentence.replace("%", "%%"))
    return f"{json.dumps(text)}.format([{', '.join(shown)}])"


def _transitions(what: Definition) -> list[Schema]:
    checks = []
    for path in rules.FIXED[what.kind]:
        new, old = _self(path), _self(path, "oldSelf")
        condition = f"{new} == {old}"
        is_leaf_optional = path in _optional_paths(what.spec)
        if is_leaf_optional:
            condition = f"has({new}) == has({old}) && (!has({new}) || {condition})"
        guards = [
            f"!has({_self(part, root)})"
            for part in _optional_parts(what.spec, [path])
            for root in ("self", "oldSelf")
        ]
        text = " || ".join([*guards, f"({condition})" if guards else condition])
        checks.append({"rule": text, "message": f"{path}: it cannot change"})
    for path in rules.GROWING[what.kind]:
        new, old = _self(path), _self(path, "oldSelf")
        text = f"{new} == {old} || {new} > {old} && (self.suspend || oldSelf.suspend)"
        message = f"{path}: it may only grow, and only while spec.suspend is true"
        checks.append({"rule": text, "message": message})
    return checks


def _leaf(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _self(path: str, root: str = "self") -> str:
    return root + path.removeprefix("spec")


def _optional_paths(spec: type[BaseModel]) -> set[str]:
    """Fields that may be absent although the API server fills in defaults."""
    return {
        "spec." + path
        for path, field in fields.walk(spec)
        if not field.is_required() and _default(field) is None
    }


def _optional_parts(spec: type[BaseModel], paths: Sequence[str]) -> list[str]:
    """Parts on the way to ``paths`` that may be absent, outermost first; not the ends."""
    optional = _optional_paths(spec)
    ways = [path.rsplit(".", n)[0] for path in paths for n in range(path.count("."), 0, -1)]
    return [part for part in dict.fromkeys(ways) if part in optional]


def main() -> None:
    """Write one file a kind into the folder given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for what in DEFINITIONS:
        (folder / f"{what.plural}.yaml").write_text(rendered(what))


if __name__ == "__main__":
    main()
