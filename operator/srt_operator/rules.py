"""Rules between fields of the resources, and what a resource keeps for life. Pure.

* One table: each rule holds its Python and its CEL form side by side; a contract test feeds both
  the same objects, the CEL form through a real API server.
* A rule names the fields it reads, so that it is left out where one of them is faulty or absent.
* A broken rule is one sentence: the field, its value, what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from srt_operator import quantities

Document = Mapping[str, Any]
"""A resource as plain data under its camelCase names, defaults filled in."""

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition between fields; ``fields[0]`` is the one to blame."""

    fields: tuple[str, ...]
    holds: Callable[..., bool]
    """Called with the values of ``fields``."""
    allowed: str
    """May name ``{1}``, ``{2}``, ... for the values of the other fields."""
    cel: str
    """The same condition in CEL; ``{0}``, ``{1}``, ... stand for the fields."""
    shows_value: bool = True
    """False where the value is too long for a sentence."""


_ENGINE: Final = "spec.rollout.template.engine."
_BUBBLE: Final = "spec.runAhead.bubble."
_LONGEST: Final = ("spec.sampling.maxPromptTokens", "spec.sampling.maxResponseTokens")
_MAX_CORES: Final = 1024
_OWN_VARIABLES: Final = ("POD_NAME", "REDIS_URL", "HOME", "TMPDIR")
_CODE_VARIABLES: Final = (
    "LD_",
    "PYTHON",
    "CUDA_INJECTION",
    "NCCL_NET_PLUGIN",
    "NCCL_PROFILER_PLUGIN",
    "NCCL_TUNER_PLUGIN",
    "VLLM_CUDART_SO_PATH",
    "VLLM_LOGGING_CONFIG_PATH",
    "VLLM_NCCL_SO_PATH",
    "VLLM_RUST_FRONTEND_PATH",
)
_ENGINE_VARIABLES: Final = (
    "PROMETHEUS_MULTIPROC_DIR",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_API_KEY",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_DO_NOT_TRACK",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE",
    "VLLM_MODEL_REDIRECT_PATH",
    "VLLM_NO_USAGE_STATS",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_USE_V2_MODEL_RUNNER",
)
"""What the gateway sets for its engine, or keeps from it."""
_UNSAFE_FLAGS: Final = ("--trust-remote-code", "--api-key", "--trust_remote_code", "--api_key")


def _is_own(name: str, *, prefix: str) -> bool:
    return name.startswith(prefix)


def _is_own_variable(name: str) -> bool:
    return _is_own(name, prefix="SRT_") or name in _OWN_VARIABLES


def _num_cores(resources: Mapping[str, Any] | None) -> Fraction:
    return quantities.parse(str((resources or {}).get("cpu", 0)))


def _num_sources(volume: Mapping[str, Any]) -> int:
    sources = ("emptyDir", "persistentVolumeClaim", "configMap")
    return sum(volume.get(source) is not None for source in sources)


def _is_below_srt(mount: Mapping[str, Any]) -> bool:
    path = str(mount.get("mountPath"))
    return path == "/srt" or path.startswith("/srt/")


def _engine_rules(engine: str) -> Sequence[Rule]:
    """What any pool of engines keeps to."""
    return (
        Rule(
            (engine + "extraArgs",),
            lambda words: not any(word.startswith(_UNSAFE_FLAGS) for word in words),
            "flags that neither run a model's own code nor change who may ask the engine",
            "{0}.all(a, !(" + " || ".join(f"a.startsWith('{f}')" for f in _UNSAFE_FLAGS) + "))",
            shows_value=False,
        ),
    )


def _engine_pod_rules(template: str) -> Sequence[Rule]:
    """What the pod template of engines keeps to: no code but the image's runs there."""
    unsafe = " || ".join(f"e.name.startsWith('{prefix}')" for prefix in _CODE_VARIABLES)
    return (
        *_pod_rules(template),
        Rule(
            (template + "env",),
            lambda env: not any(e["name"].startswith(_CODE_VARIABLES) for e in env),
            f"names that do not begin with {', '.join(_CODE_VARIABLES)}, which load code into an "
            "engine",
            f"{{0}}.all(e, !({unsafe}))",
            shows_value=False,
        ),
        Rule(
            (template + "env",),
            lambda env: not any(e["name"] in _ENGINE_VARIABLES for e in env),
            "names that the gateway does not decide on for its engine: none of "
            + ", ".join(_ENGINE_VARIABLES),
            f"{{0}}.all(e, !(e.name in [{', '.join(map(repr, _ENGINE_VARIABLES))}]))",
            shows_value=False,
        ),
    )


def _core_rule(resources: str) -> Rule:
    return Rule(
        (resources,),
        lambda wanted: _num_cores(wanted) <= _MAX_CORES,
        f"at most {_MAX_CORES} cores of cpu",
        "!has({0}) || !('cpu' in {0}) || (type({0}['cpu']) == int ? {0}['cpu'] <= "
        f"{_MAX_CORES} : quantity({{0}}['cpu']).compareTo(quantity('{_MAX_CORES}')) <= 0)",
        shows_value=False,
    )


def _pod_rules(template: str) -> Sequence[Rule]:
    """What any pod template keeps to."""
    return (
        *(_core_rule(template + "resources." + name) for name in ("requests", "limits")),
        Rule(
            (template + "env",),
            lambda env: not any(_is_own_variable(e["name"]) for e in env),
            "names that are not the suite's own: SRT_*, " + ", ".join(_OWN_VARIABLES),
            "{0}.all(e, !e.name.startsWith('SRT_') && "
            f"!(e.name in [{', '.join(map(repr, _OWN_VARIABLES))}]))",
            shows_value=False,
        ),
        Rule(
            (template + "volumes",),
            lambda volumes: all(_num_sources(volume) == 1 for volume in volumes),
            "exactly one of emptyDir, persistentVolumeClaim and configMap for each volume",
            "{0}.all(v, (has(v.emptyDir) ? 1 : 0) + (has(v.persistentVolumeClaim) ? 1 : 0) + "
            "(has(v.configMap) ? 1 : 0) == 1)",
            shows_value=False,
        ),
        Rule(
            (template + "volumes",),
            lambda volumes: not any(_is_own(v["name"], prefix="srt-") for v in volumes),
            "names that do not begin with srt-, which are the suite's own volumes",
            "{0}.all(v, !v.name.startsWith('srt-'))",
            shows_value=False,
        ),
        Rule(
            (template + "volumeMounts",),
            lambda mounts: not any(map(_is_below_srt, mounts)),
            "paths that are not below /srt, where the suite's own files lie",
            "{0}.all(m, m.mountPath != '/srt' && !m.mountPath.startsWith('/srt/'))",
            shows_value=False,
        ),
    )


_SRTJOB_RULES: Final[Sequence[Rule]] = (
    Rule(
        ("spec.trainer.nodes",),
        lambda nodes: nodes == 1,
        "1 (more are not built yet)",
        "{0} == 1",
    ),
    Rule(
        ("spec.trainer.procPerNode",),
        lambda procs: procs == 1,
        "1 (more are not built yet)",
        "{0} == 1",
    ),
    Rule(
        ("spec.algorithm.rolloutsPerPrompt", "spec.algorithm.type"),
        lambda group_size, kind: kind != "GRPO" or group_size >= 2,
        "2 or more with {1}, which compares the rollouts of a group",
        "{1} != 'GRPO' || {0} >= 2",
    ),
    Rule(
        ("spec.algorithm.grpo.epsilonHigh", "spec.algorithm.grpo.epsilon"),
        lambda high, low: high is None or high >= low,
        "{1} (epsilon) or more",
        "!has({0}) || {0} >= {1}",
    ),
    Rule(
        ("spec.rollout.poolRef", "spec.rollout.template"),
        lambda reference, template: (reference is None) != (template is None),
        "exactly one of spec.rollout.template and spec.rollout.poolRef",
        "has({0}) != has({1})",
        shows_value=False,
    ),
    Rule(
        ("spec.treeCache.cacheRef", "spec.treeCache.template"),
        lambda reference, template: reference is None or template is None,
        "one of spec.treeCache.template and spec.treeCache.cacheRef",
        "!(has({0}) && has({1}))",
        shows_value=False,
    ),
    *(
        Rule(
            (part, "spec.rollout.poolRef"),
            lambda trees, pool: trees is None or pool is None,
            "to leave it out with spec.rollout.poolRef, for a pool names its own trees",
            "!(has({0}) && has({1}))",
            shows_value=False,
        )
        for part in ("spec.treeCache.cacheRef", "spec.treeCache.template")
    ),
    Rule(
        (_ENGINE + "maxModelLen", *_LONGEST),
        lambda length, prompt, response: length >= prompt + response,
        "maxPromptTokens + maxResponseTokens ({1} + {2}) or more",
        "{0} >= {1} + {2}",
    ),
    Rule(
        ("spec.optimizer.maxTokensPerMicroBatch", *_LONGEST),
        lambda tokens, prompt, response: tokens >= prompt + response,
        "maxPromptTokens + maxResponseTokens ({1} + {2}) or more",
        "{0} >= {1} + {2}",
    ),
    Rule(
        ("spec.runAhead.reserveSlots", _ENGINE + "maxNumSeqs", "spec.runAhead.enabled"),
        lambda slots, rows, enabled: not enabled or slots < rows,
        "less than the engine's maxNumSeqs ({1})",
        "!{2} || {0} < {1}",
    ),
    Rule(
        (_BUBBLE + "openBelow", _BUBBLE + "closeAbove"),
        lambda below, above: below < above,
        "less than closeAbove ({1})",
        "{0} < {1}",
    ),
    Rule(
        (_BUBBLE + "sources",),
        lambda sources: {"TrainerPhase", "EngineLoad"} <= set(sources),
        "a list with TrainerPhase and EngineLoad, which decide; NVML and Prometheus may join them",
        "['TrainerPhase', 'EngineLoad'].all(s, s in {0})",
        shows_value=False,
    ),
    *_engine_rules(_ENGINE),
    *_pod_rules("spec.trainer.podTemplate."),
    *_engine_pod_rules("spec.rollout.template.podTemplate."),
)

_ROLLOUT_POOL_RULES: Final[Sequence[Rule]] = (
    Rule(
        ("spec.treeCacheRef", "spec.drafter.enabled"),
        lambda reference, enabled: reference is not None or not enabled,
        "the name of a TreeCache, or spec.drafter.enabled false",
        "has({0}) || !{1}",
        shows_value=False,
    ),
    Rule(
        ("spec.runAhead.reserveSlots", "spec.engine.maxNumSeqs", "spec.runAhead.enabled"),
        lambda slots, rows, enabled: not enabled or slots < rows,
        "less than the engine's maxNumSeqs ({1})",
        "!{2} || {0} < {1}",
    ),
    *_engine_rules("spec.engine."),
    *_engine_pod_rules("spec.podTemplate."),
)

RULES: Final[Mapping[str, Sequence[Rule]]] = {
    "SRTJob": _SRTJOB_RULES,
    "RolloutPool": _ROLLOUT_POOL_RULES,
    "TreeCache": (),
}
"""By kind."""

FIXED: Final[Mapping[str, Sequence[str]]] = {
    "SRTJob": (
        "spec.model",
        "spec.dataset",
        "spec.sampling",
        "spec.algorithm.type",
        "spec.algorithm.promptsPerStep",
        "spec.algorithm.rolloutsPerPrompt",
        "spec.algorithm.seed",
        "spec.treeCache.template.shards",
        "spec.treeCache.cacheRef",
        "spec.rollout.poolRef",
        "spec.storage.path",
        "spec.storage.claimName",
        "spec.managedBy",
    ),
    "RolloutPool": ("spec.model", "spec.treeCacheRef"),
    "TreeCache": ("spec.shards",),
}
"""What a resource keeps for life, by kind."""

GROWING: Final[Mapping[str, Sequence[str]]] = {
    "SRTJob": ("spec.algorithm.steps",),
    "RolloutPool": (),
    "TreeCache": (),
}
"""What may only grow, by kind; in a cluster while the job is suspended: a trainer reads it once."""


def broken(kind: str, document: Document, *, skip: frozenset[str]) -> list[str]:
    """A sentence for each rule that ``document`` breaks, but for rules on what is in ``skip``."""
    faults = []
    for rule in RULES[kind]:
        if any(_overlap(field, path) for field in rule.fields for path in skip):
            continue
        values = [_value(document, field) for field in rule.fields]
        if _ABSENT not in values and not rule.holds(*values):
            allowed = rule.allowed.format(*values)
            shown = f" is {values[0]!r}" if rule.shows_value else ""
            faults.append(f"{rule.fields[0]}{shown}: allowed is {allowed}")
    return faults


def check(document: Document) -> None:
    """Raise ValueError with a sentence for each rule that ``document`` breaks."""
    if faults := broken(document["kind"], document, skip=frozenset()):
        raise ValueError("\n".join(faults))


def changes(before: Document, after: Document, *, skip: frozenset[str] = frozenset()) -> list[str]:
    """A sentence for each change from ``before`` to ``after`` that a resource does not allow."""
    kind = before["kind"]
    faults = [
        f"{path} is {_shown(after, path)}: allowed is {_shown(before, path)}, as it was begun"
        for path in FIXED[kind]
        if path not in skip and _value(before, path) != _value(after, path)
    ]
    faults += [
        f"{path} is {_shown(after, path)}: allowed is {_shown(before, path)} or more, "
        "as it was begun"
        for path in GROWING[kind]
        if _value(after, path) < _value(before, path)
    ]
    return faults


def _shown(document: Document, path: str) -> str:
    value = _value(document, path)
    return "absent" if value is _ABSENT or value is None else repr(value)


def _overlap(field: str, path: str) -> bool:
    return field == path or field.startswith(path + ".") or path.startswith(field + ".")


def _value(document: Document, path: str) -> Any:
    """`_ABSENT` where a part on the way is absent."""
    value: Any = document
    for name in path.split("."):
        if value is None:
            return _ABSENT
        value = value.get(name)
    return value
