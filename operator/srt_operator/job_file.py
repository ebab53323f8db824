"""An SRTJob from text: YAML, overrides, and every fault at once, in sentences to act on. Pure.

* Each fault names the field, its value and what is allowed; a syntax fault names its line.
* Nothing is guessed: unknown fields, repeated keys and several documents are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from srt_common.errors import ConfigurationError
from srt_operator import fields, rules
from srt_operator.resources import SRTJob

MAX_JOB_BYTES: Final = 2**20
_SHOWN_CHARACTERS: Final = 80

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``3e-4`` as a number and refuses a key given twice."""


class _FaultyYAML(yaml.MarkedYAMLError):
    """A fault of ours in the shape of the parser's own."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise _FaultyYAML(problem=f"{name} is given twice", problem_mark=key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_job(text: str, *, overrides: Sequence[str] = ()) -> SRTJob:
    """Read a job.

    Args:
        text: one YAML document, at most `MAX_JOB_BYTES` characters.
        overrides: ``path=value`` each, for instance ``spec.algorithm.steps=20``; values are YAML.

    Raises:
        ConfigurationError: every fault of the file and of the overrides, one sentence each.
    """
    document = _parse(text)
    faults = [fault for override in overrides for fault in _override(document, override)]
    try:
        job = SRTJob.model_validate(document)
    except ValidationError as error:
        faults.extend(_all_faults(document, error))
    if faults:
        raise ConfigurationError(faults=faults)
    return job


def job_of(document: Mapping[str, Any]) -> SRTJob:
    """A job from plain data. Raises ConfigurationError with every fault."""
    try:
        return SRTJob.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(faults=_all_faults(document, error)) from error


def dump_job(job: SRTJob) -> str:
    """The job as YAML, defaults written out; `load_job` reads it back equal."""
    document = job.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(document, sort_keys=False, width=100)


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_JOB_BYTES:
        raise ConfigurationError(
            faults=[f"the job has {len(text)} characters: allowed are {MAX_JOB_BYTES}"]
        )
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigurationError(faults=[_syntax_fault(error)]) from error
    if not isinstance(document, dict):
        raise ConfigurationError(
            faults=["the job is no mapping of apiVersion, kind, metadata and spec"]
        )
    return document


def _syntax_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{problem}"


def _override(document: dict[str, Any], override: str) -> Iterator[str]:
    """Set one value in ``document``; yields the fault that kept it from doing so."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        yield f"--set {override!r}: allowed is path=value, such as spec.algorithm.steps=20"
        return
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        yield f"--set {path}: {_syntax_fault(error)}"
        return
    *parents, last = path.split(".")
    part: Any = document
    for name in parents:
        part = part.setdefault(name, {}) if isinstance(part, dict) else None
    if isinstance(part, dict):
        part[last] = value
    else:
        yield f"--set {path}: it leads through a value that is not a mapping"


def _all_faults(document: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Faults of single fields, then of rules between the fields that are sound."""
    details = [d for d in error.errors(include_url=False) if d["loc"]]
    faults = [_sentence(detail) for detail in details]
    skip = {".".join(str(part) for part in detail["loc"]) for detail in details}
    filled = fields.with_defaults(SRTJob, document)
    return [*faults, *rules.broken("SRTJob", filled, skip=frozenset(skip))]


def _sentence(detail: ErrorDetails) -> str:
    """One fault as field, value, what is allowed."""
    path: Path = detail["loc"]
    name = ".".join(str(part) for part in path)
    if detail["type"] == "extra_forbidden":
        return _unknown_field(name, path)
    if detail["type"] == "missing":
        return f"{name} is missing: it is required, {fields.allowed(SRTJob, path)}"
    return f"{name} is {_shown(detail['input'])}: allowed is {fields.allowed(SRTJob, path)}"


def _unknown_field(name: str, path: Path) -> str:
    known = fields.names(SRTJob, path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}"
    return f"{name} is not a field: {hint}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
