"""The rules pass promtool's checks, each alert is tested in both directions, and each has a runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.expressions import ALERTS, GROUPS, ROOT, RULES, STACK
from tests.servers import find_binary

DIRECTORY = STACK / "prometheus"
UNIT_TESTS: list[dict[str, Any]] = yaml.safe_load((DIRECTORY / "tests/alerts.test.yml").read_text())["tests"]
SEVERITIES = ("critical", "warning", "info")
each_alert = pytest.mark.parametrize(
    "alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}"
)


def promtool(*arguments: str, cwd: Path = DIRECTORY) -> None:
    """Run promtool, which must be content."""
    binary = find_binary("promtool", "prometheus")
    done = subprocess.run([binary, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "tests/alerts.test.yml")


@each_alert
def test_an_alert_has_unit_tests_that_fire_it_and_that_do_not(alert: dict[str, Any]) -> None:
    cases = [case for test in UNIT_TESTS for case in test["alert_rule_test"] if case["alertname"] == alert["alert"]]
    fired = [expected["exp_labels"]["severity"] for case in cases for expected in case["exp_alerts"]]
    assert alert["labels"]["severity"] in fired
    assert any(not case["exp_alerts"] for case in cases)


@each_alert
def test_an_alert_says_what_is_wrong_and_where_its_runbook_is(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "{{" not in annotations["summary"]
    page, _, anchor = annotations["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert f"## {alert['alert']}" in (ROOT / page).read_text().splitlines()


def test_no_runbook_is_left_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert set(headings) == {alert["alert"] for alert in ALERTS}


def test_recording_rules_are_named_by_level_metric_and_operation() -> None:
    recorded = [rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule]
    assert recorded
    assert [name for name in recorded if not re.fullmatch(r"job:taskflow_\w+:ratio_rate\d+[mhd]", name)] == []


def test_every_recorded_window_is_used_by_an_alert() -> None:
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    used = {name for alert in ALERTS for name in re.findall(r"job:\w+:\w+", alert["expr"])}
    assert recorded == used
