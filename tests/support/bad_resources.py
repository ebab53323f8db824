"""Specs that nobody should get past us: what each changes in a sound resource, and who is blamed.

Fed both to the Python rules and to a real API server, which have to agree.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from srt_common.errors import ConfigurationError
from srt_operator.caches import TreeCache
from srt_operator.job_file import load_job
from srt_operator.pools import RolloutPool
from srt_operator.resources import SRTJob
from support.jobs import JOB

Document = dict[str, Any]

POOL: Final = """
apiVersion: srt-rl.dev/v1alpha1
kind: RolloutPool
metadata: {name: engines}
spec:
  model: {uri: "pvc://models/tiny"}
  treeCacheRef: {name: trees}
  engine: {maxNumSeqs: 8, maxModelLen: 128}
  runAhead: {reserveSlots: 2}
"""
CACHE: Final = """
apiVersion: srt-rl.dev/v1alpha1
kind: TreeCache
metadata: {name: trees}
spec: {shards: 16}
"""
SOUND: Final[dict[str, Document]] = {
    document["kind"]: document for document in map(yaml.safe_load, (JOB, POOL, CACHE))
}
_TYPES: Final[dict[str, type[BaseModel]]] = {
    "SRTJob": SRTJob,
    "RolloutPool": RolloutPool,
    "TreeCache": TreeCache,
}


def verdict_of_python(document: Document) -> str:
    """Its sentences; empty if it takes the document."""
    try:
        if document["kind"] == "SRTJob":
            load_job(yaml.safe_dump(document))
        else:
            _TYPES[document["kind"]].model_validate_json(json.dumps(document))
    except ConfigurationError as error:
        return "\n".join(error.faults)
    except ValidationError as error:
        places = [".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors()]
        return "\n".join(places)
    return ""


@dataclass(frozen=True, slots=True)
class Bad:
    """One change to a sound resource."""

    kind: str
    path: str
    """Dotted; what is not there is made."""
    value: Any
    blamed: str = ""
    """The field that both sentences name; absent: ``path``."""

    @property
    def document(self) -> Document:
        """The resource with the change."""
        return changed(SOUND[self.kind], self.path, self.value)

    @property
    def field(self) -> str:
        """The field to blame."""
        return self.blamed or self.path

    def __str__(self) -> str:
        return f"{self.kind}-{self.path}-{str(self.value)[:40]}"


def changed(document: Document, path: str, value: Any) -> Document:
    """A copy with one value set; ``None`` removes it."""
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    part = result
    for name in parents:
        part = part.setdefault(name, {})
    if value is None:
        part.pop(last, None)
    else:
        part[last] = value
    return result


_TEMPLATES: Final = (
    ("SRTJob", "spec.trainer.podTemplate"),
    ("SRTJob", "spec.rollout.template.podTemplate"),
    ("RolloutPool", "spec.podTemplate"),
)
_ENGINES: Final = (("SRTJob", "spec.rollout.template.engine"), ("RolloutPool", "spec.engine"))
_FORBIDDEN_VOLUMES: Final[tuple[Document, ...]] = (
    {"hostPath": {"path": "/"}},
    {"secret": {"secretName": "theirs"}},
    {"projected": {"sources": []}},
    {"nfs": {"server": "10.0.0.1", "path": "/"}},
)

ESCAPES: Final = [
    *(
        Bad(kind, f"{template}.{name}", value)
        for kind, template in _TEMPLATES
        for name, value in (
            ("hostNetwork", True),
            ("hostPID", True),
            ("hostIPC", True),
            ("serviceAccountName", "srt-operator"),
            ("securityContext", {"privileged": True}),
            ("containers", [{"name": "mine", "image": "mine"}]),
            ("initContainers", [{"name": "mine", "image": "mine"}]),
            ("envFrom", [{"secretRef": {"name": "theirs"}}]),
            ("automountServiceAccountToken", True),
        )
    ),
    *(
        Bad(kind, f"{template}.volumes", [{"name": "mine"} | source], f"{template}.volumes")
        for kind, template in _TEMPLATES
        for source in _FORBIDDEN_VOLUMES
    ),
    *(
        Bad(
            kind,
            f"{template}.env",
            [{"name": "MINE", "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "token"}}}],
        )
        for kind, template in _TEMPLATES
    ),
    *(
        Bad(kind, f"{engine}.extraArgs", [word])
        for kind, engine in _ENGINES
        for word in (
            "--trust-remote-code",
            "--trust_remote_code",
            "--trust-remote-code=true",
            "--api-key",
            "--api-key=mine",
        )
    ),
    *(
        Bad(kind, "spec.model.uri", uri)
        for kind in ("SRTJob", "RolloutPool")
        for uri in ("http://169.254.169.254/", "https://models/tiny", "s3://models/tiny", "/etc")
    ),
    Bad("SRTJob", "spec.dataset.uri", "http://169.254.169.254/"),
    Bad("SRTJob", "spec.model.trustRemoteCode", True),
    *(
        Bad(kind, "metadata.name", name)
        for kind in ("SRTJob", "RolloutPool", "TreeCache")
        for name in ("a" * 41, "a" * 1_000_000, "\u00fcber", "Upper", "../up")
    ),
    *(Bad(kind, "spec.model.uri", "hf://" + "a" * 1_000_000) for kind in ("SRTJob", "RolloutPool")),
    Bad("SRTJob", "spec.rollout.poolRef", {"name": "theirs", "namespace": "other"}),
    Bad("SRTJob", "spec.treeCache.cacheRef", {"name": "theirs", "namespace": "other"}),
    Bad("RolloutPool", "spec.treeCacheRef", {"name": "theirs", "namespace": "other"}),
]
"""What platform.md 9.2 expects of a hostile reviewer, by spec alone."""

MISTAKES: Final = [
    Bad("SRTJob", "spec.trainer.nodes", 2),
    Bad("SRTJob", "spec.trainer.procPerNode", 2),
    Bad("SRTJob", "spec.algorithm.rolloutsPerPrompt", 1),
    Bad("SRTJob", "spec.algorithm.steps", 0),
    Bad("SRTJob", "spec.algorithm.steps", "5"),
    Bad("SRTJob", "spec.algorithm.steps", None),
    Bad("SRTJob", "spec.algorithm.type", "PPO"),
    Bad("SRTJob", "spec.algorithm.grpo.epsilonHigh", 0.1),
    Bad("SRTJob", "spec.sampling.temperature", 0),
    Bad("SRTJob", "spec.rollout.template", None),
    Bad("SRTJob", "spec.rollout.poolRef", {"name": "engines"}),
    Bad(
        "SRTJob",
        "spec.treeCache.cacheRef",
        {"name": "trees"},
        blamed="spec.treeCache.cacheRef",
    ),
    Bad(
        "SRTJob",
        "spec.rollout",
        {"poolRef": {"name": "engines"}},
        blamed="spec.treeCache.template",
    ),
    Bad("SRTJob", "spec.rollout.template.engine.maxModelLen", 100),
    Bad("SRTJob", "spec.optimizer.maxTokensPerMicroBatch", 100),
    Bad("SRTJob", "spec.runAhead.reserveSlots", 8),
    Bad("SRTJob", "spec.runAhead.bubble.openBelow", 0.9),
    Bad("SRTJob", "spec.runAhead.bubble.sources", ["TrainerPhase", "NVML"]),
    Bad("SRTJob", "spec.runAhead.bubble.sources", ["EngineLoad", "Prometheus"]),
    Bad("SRTJob", "spec.runAhead.bubble.sources", ["TrainerPhase", "EngineLoad", "DCGM"]),
    Bad("SRTJob", "spec.treeCache.template.retention.maxBytes", "1Mx"),
    Bad("SRTJob", "spec.treeCache.template.shards", 17),
    Bad("SRTJob", "spec.rewards", {}),
    *(
        Bad(kind, f"{template}.{name}", value)
        for kind, template in _TEMPLATES
        for name, value in (
            ("env", [{"name": "SRT_ROLLOUT_HOST", "value": "mine"}]),
            ("env", [{"name": "REDIS_URL", "value": "redis://mine"}]),
            ("env", [{"name": "POD_NAME", "value": "mine"}]),
            ("resources.requests", {"cpu": 1025}),
            ("resources.limits", {"cpu": "1E"}),
            ("resources.limits", {"cpu": "1e999"}),
            ("volumes", [{"name": "none"}]),
            ("volumes", [{"name": "srt-mine", "emptyDir": {}}]),
            ("volumes", [{"name": "two", "emptyDir": {}, "configMap": {"name": "mine"}}]),
            ("volumeMounts", [{"name": "mine", "mountPath": "/srt/mine"}]),
            ("volumeMounts", [{"name": "mine", "mountPath": "relative"}]),
        )
    ),
    *(
        Bad(kind, f"{template}.volumeMounts", [{"name": "mine", "mountPath": path}])
        for kind, template in _TEMPLATES
        for path in ("//srt/private", "/./srt/private", "/tmp/../srt/private", "/srt/", "/..")
    ),
    *(
        Bad(kind, f"{template}.env", [{"name": name, "value": "/mine"}])
        for kind, template in _TEMPLATES[1:]
        for name in (
            "LD_PRELOAD",
            "PYTHONPATH",
            "VLLM_LOGGING_CONFIG_PATH",
            "VLLM_SERVER_DEV_MODE",
            "PROMETHEUS_MULTIPROC_DIR",
        )
    ),
    Bad("RolloutPool", "spec.treeCacheRef", None),
    Bad("RolloutPool", "spec.runAhead.reserveSlots", 8),
    Bad("RolloutPool", "spec.replicas", -1),
    Bad("RolloutPool", "spec.engine.kvCacheMemory", "1Ki"),
    Bad("TreeCache", "spec.shards", 17),
    Bad("TreeCache", "spec.replicas", -1),
    Bad("TreeCache", "spec.deletionPolicy", "Keep"),
]
"""What people get wrong: bounds of fields and every rule between fields."""
