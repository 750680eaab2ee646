"""The rules pass promtool's checks, each alert is tested in both directions, and each has a runbook."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.expressions import ALERTS, GROUPS, ROOT, RULES, STACK
from tests.servers import find_binary

DIRECTORY = STACK / "prometheus"
UNIT_TESTS: list[dict[str, Any]] = yaml.safe_load((DIRECTORY / "tests/alerts.test.yml").read_text())["tests"]
UNIT_TEST_FILES = sorted(path.name for path in (DIRECTORY / "tests").glob("*.test.yml"))
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


@pytest.mark.parametrize("name", UNIT_TEST_FILES)
def test_each_alert_fires_when_it_should_and_only_then(name: str) -> None:
    promtool("test", "rules", f"tests/{name}")


def twice(test: dict[str, Any], job: str) -> Iterator[dict[str, str]]:
    """The series of a unit test, of one job, at each of its targets and at a second one that does the same."""
    for series in test["input_series"]:
        for twin in ("", "2"):
            name = re.sub(r'instance="(\w+)"', rf'instance="\g<1>{twin}"', series["series"])
            yield {**series, "series": name.replace('job="shop"', f'job="{job}"')}


def test_with_twice_the_targets_the_same_alerts_fire(tmp_path: Path) -> None:
    """All tests at once, each as a job of its own: opening a database for each takes most of the time."""
    together: dict[str, dict[str, Any]] = {}
    for number, test in enumerate(UNIT_TESTS):
        if "shop" not in str(test["input_series"]) or "6h" in str(test["alert_rule_test"]):
            # The other databases end after an hour or two.
            continue
        interval, job = test["interval"], f"job-{number}"
        found = together.setdefault(interval, {"interval": interval, "input_series": [], "promql_expr_test": []})
        found["input_series"] += twice(test, job)
        for case in test["alert_rule_test"]:
            name = case["alertname"]
            firing = {alert["exp_labels"]["severity"] for alert in case["exp_alerts"]}
            found["promql_expr_test"].append(
                {
                    "expr": f'group by (severity) (ALERTS{{alertname="{name}", job="{job}", alertstate="firing"}})',
                    "eval_time": case["eval_time"],
                    "exp_samples": [{"labels": f'{{severity="{severity}"}}', "value": 1} for severity in firing],
                }
            )
    rules = [str(DIRECTORY / name) for name in RULES]
    tests = {"rule_files": rules, "evaluation_interval": "1m", "tests": list(together.values())}
    (tmp_path / "twice.yml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "twice.yml", cwd=tmp_path)


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
    assert [
        name
        for name in recorded
        if not re.fullmatch(r"job(_task|_kind)?:taskflow_\w+:(ratio_rate\d+[mhd]|ratio|sum)", name)
    ] == []


def test_every_recorded_window_is_used_by_an_alert() -> None:
    recorded = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    used = {name for alert in ALERTS for name in re.findall(r"\bjob\w*:\w+:\w+", alert["expr"])}
    assert recorded == used
