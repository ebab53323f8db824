"""The registry in docs/telemetry and the code say the same.

Covers names, units and kinds of instruments, that entries are complete, and the naming rules. Which
process really emits what is the matter of the integration tests.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml
from opentelemetry.metrics import Meter, NoOpMeter

from srt_common.coordination import Phase
from srt_common.messages.rollouts import Lane
from srt_common.messages.runahead import RunaheadResult
from srt_common.telemetry import instruments, names

REGISTRY = Path(__file__).parents[2] / "docs" / "telemetry"

Entry = dict[str, Any]


def registry(file: Literal["spans", "metrics", "attributes"]) -> dict[str, Entry]:
    entries: list[Entry] = yaml.safe_load((REGISTRY / f"{file}.yaml").read_text())
    by_name = {entry["name"]: entry for entry in entries}
    assert len(by_name) == len(entries), "a name stands twice in the registry"
    return by_name


def constants(prefix: str) -> dict[str, Any]:
    """Constants of the names module by their name."""
    return {name: value for name, value in vars(names).items() if name.startswith(prefix)}


@pytest.mark.parametrize(("prefix", "file"), [("SPAN_", "spans"), ("ATTR_", "attributes")])
def test_the_registry_lists_exactly_the_names_in_the_code(
    prefix: str, file: Literal["spans", "attributes"]
) -> None:
    assert sorted(constants(prefix).values()) == sorted(registry(file))


def test_the_registry_lists_exactly_the_metrics_in_the_code_with_their_units() -> None:
    in_registry = {(entry["name"], entry["unit"]) for entry in registry("metrics").values()}
    assert set(constants("METRIC_").values()) == in_registry


class RecordingMeter(NoOpMeter):
    """Notes the kind and unit of every instrument that is asked for."""

    def __init__(self) -> None:
        super().__init__("tests")
        self.made: dict[str, tuple[str, str]] = {}

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Any:
        self.made[name] = ("counter", unit)
        return super().create_counter(name, unit, description)

    def create_histogram(self, name: str, unit: str = "", *args: Any, **kwargs: Any) -> Any:
        self.made[name] = ("histogram", unit)
        return super().create_histogram(name, unit, *args, **kwargs)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Any:
        self.made[name] = ("gauge", unit)
        return super().create_gauge(name, unit, description)

    def create_observable_gauge(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> Any:
        self.made[name] = ("gauge", unit)
        return super().create_observable_gauge(name, callbacks, unit, description)


def _make_all(meter: Meter) -> None:
    for kind in vars(instruments).values():
        if getattr(kind, "__module__", "") == instruments.__name__ and hasattr(kind, "of"):
            kind.of(meter)


def test_instruments_have_the_kind_and_unit_of_the_registry() -> None:
    meter = RecordingMeter()
    _make_all(meter)
    metrics = registry("metrics")
    assert meter.made == {
        name: (metrics[name]["instrument"], metrics[name]["unit"]) for name in meter.made
    }
    gauges = {name for name, entry in metrics.items() if entry["instrument"] == "gauge"}
    engine_only = {name for name, entry in metrics.items() if "only_on_metrics_route" in entry}
    assert set(metrics) == set(meter.made) | gauges | engine_only


def test_a_gauge_is_observed_under_its_name_and_unit() -> None:
    meter = RecordingMeter()
    instruments.observe(meter, names.METRIC_TREE_MEMORY, lambda: 1.0)
    assert meter.made == {"srt.tree.memory": ("gauge", "By")}


@pytest.mark.parametrize("file", ["spans", "metrics"])
def test_entries_name_only_attributes_that_are_registered(
    file: Literal["spans", "metrics"],
) -> None:
    attributes = registry("attributes")
    where = file.removesuffix("s")
    for name, entry in registry(file).items():
        assert entry["brief"].endswith("."), name
        for attribute in entry["attributes"]:
            assert where in attributes[attribute]["where"], f"{attribute} on {name}"


def test_every_attribute_stands_on_something() -> None:
    used = {
        attribute
        for file in ("spans", "metrics")
        for entry in registry(file).values()
        for attribute in entry["attributes"]
    }
    assert set(registry("attributes")) == used


def test_spans_lie_under_and_refer_to_spans_that_are_registered() -> None:
    spans = registry("spans")
    for name, entry in spans.items():
        for other in [*entry.get("parent", name).split(" or "), *entry.get("links", [])]:
            assert other in spans, f"{other} of {name}"
        assert entry["service"], name


@pytest.mark.parametrize(
    ("attribute", "allowed"),
    [
        (names.ATTR_LANE, get_args(Lane)),
        (names.ATTR_PHASE, get_args(Phase)),
        (names.ATTR_RUNAHEAD_RESULT, get_args(RunaheadResult)),
    ],
)
def test_values_of_closed_attributes_are_those_of_the_code(
    attribute: str, allowed: tuple[str, ...]
) -> None:
    assert tuple(registry("attributes")[attribute]["values"]) == allowed


def test_names_follow_the_naming_rules() -> None:
    rule = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)*")
    for name in [*registry("spans"), *registry("metrics"), *registry("attributes")]:
        assert rule.fullmatch(name), name
        assert not name.endswith("_total"), name
    for name in [*registry("metrics"), *registry("attributes")]:
        assert name.startswith(("srt.", "gen_ai.", "error.type")), name


def test_what_has_many_values_is_no_attribute_of_a_metric() -> None:
    for name in ("srt.prompt.key", "srt.rollout.id", "srt.group.id", "srt.bubble.epoch"):
        assert registry("attributes")[name]["where"] == ["span"]
