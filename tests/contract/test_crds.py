"""The CustomResourceDefinitions in the chart are those that the typed resources make, and small.

What a real API server makes of them is shown in tests/cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from srt_operator import crds, places, rules
from srt_operator.caches import TreeCache
from srt_operator.job_file import load_job
from srt_operator.pools import RolloutPool
from srt_operator.resources import SRTJob

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "charts" / "srt-crds" / "templates"
SAMPLES = sorted((ROOT / "docs" / "examples").rglob("*.yaml"))
TYPES: dict[str, type[SRTJob | RolloutPool | TreeCache]] = {
    "SRTJob": SRTJob,
    "RolloutPool": RolloutPool,
    "TreeCache": TreeCache,
}
by_kind = pytest.mark.parametrize("what", crds.DEFINITIONS, ids=lambda what: str(what.kind))


@by_kind
def test_a_definition_has_not_drifted(what: crds.Definition) -> None:
    assert (FOLDER / f"{what.plural}.yaml").read_text() == crds.rendered(what), (
        "run python -m srt_operator.crds charts/srt-crds/templates"
    )


@by_kind
def test_a_definition_is_small_and_a_template_in_one_comment(what: crds.Definition) -> None:
    text = crds.rendered(what)
    assert len(text) < crds.MAX_BYTES
    [template] = [line for line in text.splitlines() if "{{" in line]
    assert template.startswith("    # {{- include ")
    assert yaml.safe_load(text) == crds.document(what)


@by_kind
def test_every_list_and_text_is_bounded_where_rules_read_it(what: crds.Definition) -> None:
    spec = root_of(what)["properties"]["spec"]
    unbounded = [
        path
        for path, schema in nodes(spec, "spec")
        if (schema.get("type") == "array" and "maxItems" not in schema)
        or (schema.get("type") == "string" and not schema.keys() & {"maxLength", "enum"})
    ]
    assert unbounded == []


@by_kind
def test_conditions_are_told_apart_by_their_type(what: crds.Definition) -> None:
    conditions = root_of(what)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@by_kind
def test_every_rule_of_the_table_is_there(what: crds.Definition) -> None:
    written = root_of(what)["properties"]["spec"].get("x-kubernetes-validations", [])
    kind = what.kind
    count = len(rules.RULES[kind]) + len(rules.FIXED[kind]) + len(rules.GROWING[kind])
    assert len(written) == count


def test_only_parts_that_may_be_absent_are_asked_for() -> None:
    what = crds.DEFINITIONS[0]
    written = root_of(what)["properties"]["spec"]["x-kubernetes-validations"]
    lengths = next(w["rule"] for w in written if "maxModelLen" in w["rule"])
    assert lengths == (
        "!has(self.rollout.template) || (self.rollout.template.engine.maxModelLen >= "
        "self.sampling.maxPromptTokens + self.sampling.maxResponseTokens)"
    )


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_defaults_are_those_of_the_types(path: Path) -> None:
    """A sample to which the schema's defaults are added is the same job."""
    document = yaml.safe_load(path.read_text())
    if document["kind"] != "SRTJob":
        pytest.skip("an SRTJob's defaults are looked at")
    filled = with_defaults(root_of(crds.DEFINITIONS[0]), document)
    assert load_job(yaml.safe_dump(filled)) == load_job(path.read_text())
    assert filled != document


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_what_its_kind_allows(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    resource = TYPES[document["kind"]].model_validate(document)
    assert resource.metadata.name


def test_samples_of_a_cluster_are_allowed_there_and_every_kind_has_one() -> None:
    documents = [
        yaml.safe_load(path.read_text()) for path in SAMPLES if path.parent.name == "cluster"
    ]
    assert {document["kind"] for document in documents} == set(TYPES)
    jobs = [SRTJob.model_validate(d) for d in documents if d["kind"] == "SRTJob"]
    faults = [places.cluster_faults(job.spec, file_roots=("/models", "/data")) for job in jobs]
    assert faults == [[]] * len(jobs)


def root_of(what: crds.Definition) -> dict[str, Any]:
    [version] = crds.document(what)["spec"]["versions"]
    root: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return root


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from nodes(schema[name], f"{path}[]")


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """What an API server stores."""
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, inner in schema.get("properties", {}).items():
        if name not in filled and "default" in inner:
            filled[name] = inner["default"]
        if name in filled:
            filled[name] = with_defaults(inner, filled[name])
    return filled
