"""The schema of the chart's values: closed, complete, and it refuses what people get wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "srt"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

OPEN = {"global"}
"""Belongs to whoever uses the chart as a subchart."""
KUBERNETES = {
    *("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"),
    *("hostPath", "persistentVolumeClaim", "configMap", "secret", "emptyDir", "nfs", "csi"),
    *("projected", "ephemeral", "image", "podSelector", "namespaceSelector", "ipBlock"),
}
"""Parts of Kubernetes' own types, which the API server checks."""

MISTAKES: dict[str, Any] = {
    "a misspelt key": {"operater": {}},
    "a misspelt key deep down": {"operator": {"serviceAccount": {"creat": True}}},
    "a profile that does not exist": {"profile": "tpu"},
    "no operator": {"operator": {"replicas": 0}},
    "a number as text": {"operator": {"replicas": "2"}},
    "a switch as text": {"redis": {"enabled": "false"}},
    "one namespace as text": {"watchNamespaces": "team-a"},
    "a namespace in capitals": {"watchNamespaces": ["Team-A"]},
    "a namespace twice": {"watchNamespaces": ["a", "a"]},
    "a tag inside the registry": {"image": {"registry": "registry.example/srt:1.0"}},
    "a pull policy of one's own": {"image": {"pullPolicy": "Sometimes"}},
    "pull secrets as objects": {"image": {"pullSecrets": [{"name": "regcred"}]}},
    "a digest that is none": {"image": {"digests": {"srt-operator": "latest"}}},
    "a digest of an unknown image": {"image": {"digests": {"operator": "sha256:" + "0" * 64}}},
    "a password in the URL": {"redis": {"external": {"url": "redis://:secret@host:6379/0"}}},
    "a URL of another scheme": {"redis": {"external": {"url": "http://host:6379"}}},
    "an inline password": {"redis": {"auth": {"password": "secret"}}},
    "memory without a unit": {"redis": {"maxMemory": "2"}},
    "a quantity that is none": {"operator": {"resources": {"limits": {"memory": "half a gig"}}}},
    "resources of an unknown kind": {"operator": {"resources": {"maximum": {"cpu": 1}}}},
    "a relative file root": {"operator": {"fileRoots": ["models"]}},
    "a volume of two kinds": {"operator": {"volumes": [{"name": "v", "emptyDir": {}, "nfs": {}}]}},
    "a pod default that is none": {"podDefaults": {"trainer": {"securityContext": {}}}},
    "defaults for an unknown pod": {"podDefaults": {"runahead": {}}},
    "env as a map": {"podDefaults": {"rollout": {"env": {"HF_HOME": "/tmp"}}}},
    "an endpoint without a port": {"telemetry": {"otlpEndpoint": "http://collector"}},
    "a Prometheus with a path": {"monitoring": {"prometheusUrl": "http://prometheus:9090/api"}},
    "negative accelerators": {"gpu": {"perEngine": -1}},
    "an interval without a unit": {"monitoring": {"podMonitor": {"interval": "5"}}},
    "a name in capitals": {"fullnameOverride": "SRT"},
    "a label with spaces": {"commonLabels": {"team": "the best one"}},
}


def errors(values: Any) -> list[str]:
    """What the schema has against these values over the defaults."""
    merged = merge(copy.deepcopy(VALUES), values)
    return [e.message for e in jsonschema.Draft7Validator(SCHEMA).iter_errors(merged)]


def merge(base: Any, over: Any) -> Any:
    """As Helm does."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: merge(base.get(key), value) for key, value in over.items()}


def objects_of(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that describes an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from objects_of(value, f"{path}.{key}")


def keys_of(values: Any, schema: dict[str, Any]) -> None:
    """Every key of the defaults is described, and every described key has a default."""
    properties = schema.get("properties", {})
    if not properties or "$ref" in schema or "allOf" in schema:
        return
    described = {key for key in properties if key not in ("global", "srt-crds")}
    if "digests" not in schema.get("description", "") and values != {}:
        assert set(values) == described
    for key, value in values.items():
        keys_of(value, properties[key])


def test_the_defaults_are_allowed() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert errors({}) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused(mistake: str) -> None:
    assert errors(MISTAKES[mistake]) != []


def test_at_least_twenty_mistakes_are_listed() -> None:
    assert len(MISTAKES) >= 20


def test_no_object_takes_keys_it_does_not_know() -> None:
    for path, schema in objects_of(SCHEMA):
        name = path.rsplit(".", 1)[-1]
        if name in KUBERNETES or name in OPEN:
            continue
        extra = schema.get("additionalProperties")
        assert extra is False or (extra is not True and "propertyNames" in schema), path


def test_every_default_is_described_and_every_description_has_a_default() -> None:
    keys_of(VALUES, SCHEMA)


def test_every_value_says_what_it_is() -> None:
    for path, schema in objects_of({k: v for k, v in SCHEMA.items() if k != "definitions"}):
        for key, value in schema.get("properties", {}).items():
            if "digests" not in path and "srt-crds" not in path:
                assert value.get("description"), f"{path}.{key}"
