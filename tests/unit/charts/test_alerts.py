"""Each alert fires on its trouble and not without: Prometheus' own tool tries them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from support.observability import alerts
from support.prometheus import find

ROOT = Path(__file__).parents[3]
CASES = Path(__file__).with_name("alerts.promtool.yaml")


@pytest.mark.timeout(120)
def test_promtool_finds_every_alert_as_expected() -> None:
    command = [find("promtool"), "test", "rules", str(CASES)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    names = {rule["alert"] for rule in alerts()}
    tests = yaml.safe_load(CASES.read_text())["tests"]
    tried = [one for test in tests for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in tried if one["exp_alerts"]} == names
    assert {one["alertname"] for one in tried if not one["exp_alerts"]} == names


def test_every_alert_is_in_the_page_for_operators() -> None:
    page = (ROOT / "docs" / "operate.md").read_text()
    rows = set(re.findall(r"^\| `(SRT[A-Za-z]+)`", page, flags=re.M))
    assert rows == {rule["alert"] for rule in alerts()}
