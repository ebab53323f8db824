"""Rules between fields of an SRTJob. Pure; later also the source of the CRD's CEL rules.

* A rule names the fields it reads, so that it is left out where one of them is faulty by itself.
* A broken rule is one sentence: the field, its value, what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Document = Mapping[str, Any]
"""A job as plain data under its camelCase names, defaults filled in."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition between fields; ``fields[0]`` is the one to blame."""

    fields: tuple[str, ...]
    holds: Callable[..., bool]
    """Called with the values of ``fields``."""
    allowed: str
    """May name ``{1}``, ``{2}``, ... for the values of the other fields."""


_ENGINE: Final = "spec.rollout.template.engine."
_BUBBLE: Final = "spec.runAhead.bubble."
_LONGEST: Final = ("spec.sampling.maxPromptTokens", "spec.sampling.maxResponseTokens")

RULES: Final[Sequence[Rule]] = (
    Rule(("spec.trainer.nodes",), lambda nodes: nodes == 1, "1 (more are not built yet)"),
    Rule(("spec.trainer.procPerNode",), lambda procs: procs == 1, "1 (more are not built yet)"),
    Rule(
        ("spec.algorithm.rolloutsPerPrompt", "spec.algorithm.type"),
        lambda group_size, kind: kind != "GRPO" or group_size >= 2,
        "2 or more with {1}, which compares the rollouts of a group",
    ),
    Rule(
        ("spec.algorithm.grpo.epsilonHigh", "spec.algorithm.grpo.epsilon"),
        lambda high, low: high is None or high >= low,
        "{1} (epsilon) or more",
    ),
    Rule(
        (_ENGINE + "maxModelLen", *_LONGEST),
        lambda length, prompt, response: length >= prompt + response,
        "maxPromptTokens + maxResponseTokens ({1} + {2}) or more",
    ),
    Rule(
        ("spec.optimizer.maxTokensPerMicroBatch", *_LONGEST),
        lambda tokens, prompt, response: tokens >= prompt + response,
        "maxPromptTokens + maxResponseTokens ({1} + {2}) or more",
    ),
    Rule(
        ("spec.runAhead.reserveSlots", _ENGINE + "maxNumSeqs", "spec.runAhead.enabled"),
        lambda slots, rows, enabled: not enabled or slots < rows,
        "less than the engine's maxNumSeqs ({1})",
    ),
    Rule(
        (_BUBBLE + "openBelow", _BUBBLE + "closeAbove"),
        lambda below, above: below < above,
        "less than closeAbove ({1})",
    ),
)


def broken(document: Document, *, skip: frozenset[str]) -> list[str]:
    """A sentence for each rule that ``document`` breaks, but for rules on a field in ``skip``."""
    faults = []
    for rule in RULES:
        if any(_is_below(field, path) for field in rule.fields for path in skip):
            continue
        values = [_value(document, field) for field in rule.fields]
        if not rule.holds(*values):
            allowed = rule.allowed.format(*values)
            faults.append(f"{rule.fields[0]} is {values[0]!r}: allowed is {allowed}")
    return faults


def _is_below(field: str, path: str) -> bool:
    return field == path or field.startswith(path + ".")


def _value(document: Document, path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return value
