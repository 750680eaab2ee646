"""Every PromQL expression of the stack, and what it is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from taskflow_otel.exporters.signals import METRICS_BY_NAME
from taskflow_otel.exporters.specs import MetricSpec, MetricType

ROOT = Path(__file__).parent.parent.parent
STACK = ROOT / "dashboards"
RULES = ("taskflow.rules.yml", "taskflow.alerts.yml")
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((STACK / "grafana").glob("*.json"))
}
GROUPS: list[dict[str, Any]] = [
    group for name in RULES for group in yaml.safe_load((STACK / "prometheus" / name).read_text())["groups"]
]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDED: dict[str, str] = {
    rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule
}

_SUFFIXES = ("_bucket", "_sum", "_count")
_TARGET = {"cluster", "namespace", "job", "instance"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel with the dashboard that it is on."""

    dashboard: str
    model: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.dashboard}/{self.model['id']} {self.model['title']}"

    @property
    def on_prometheus(self) -> bool:
        return bool(self.model["datasource"]["type"] == "prometheus")


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, as it stands in a dashboard or a rule."""

    where: str
    text: str
    exemplar: bool = False

    def __str__(self) -> str:
        return self.where

    def filled(self, window: str) -> str:
        """What Grafana sends, all variables at `All`."""
        text = self.text.replace("$__rate_interval", window).replace("$__range", window)
        text = re.sub(r'"\$(cluster|namespace)"', '".*"', text)
        return re.sub(r'"\$(job|instance|task|queue)"', '".+"', text)

    def parse(self) -> promql_parser.Expr:
        return promql_parser.parse(self.filled("1m"))


PANELS = [
    Panel(name, model) for name, board in DASHBOARDS.items() for model in board["panels"] if model["type"] != "row"
]
QUERIES = [
    Expression(f"{panel} {target['refId']}", target["expr"], exemplar=bool(target.get("exemplar")))
    for panel in PANELS
    if panel.on_prometheus
    for target in panel.model["targets"]
]
RELEASES = [
    Expression(f"{name} {one['name']}", one["expr"])
    for name, board in DASHBOARDS.items()
    for one in board["annotations"]["list"]
]
RULE_EXPRESSIONS = [
    Expression(rule.get("record") or f"{rule['alert']} ({rule['labels']['severity']})", rule["expr"])
    for group in GROUPS
    for rule in group["rules"]
]


_DURATION = re.compile(r"(?<=\[)\d+[mhd](?=\])|(?<=for: )\d+[mhd]\b")
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}


def sped_up(rules: str, factor: int = 60) -> str:
    """A file of rules in which time passes `factor` times as fast: `for` and the windows `[5m]` shrink alike.

    Thresholds, and times in seconds that a condition compares with, stay as they are.
    """

    def shorter(found: re.Match[str]) -> str:
        return f"{int(found[0][:-1]) * _SECONDS[found[0][-1]] * 1_000 // factor}ms"

    return _DURATION.sub(shorter, rules)


def nodes(expression: promql_parser.Expr) -> Iterator[promql_parser.Expr]:
    """The expression and everything in it."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    yield from found


def selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Every series selector in an expression."""
    return [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]


def spec_of(name: str | None) -> MetricSpec | None:
    """The metric of the table that series of this name belong to."""
    if name is None:
        return None
    for suffix in _SUFFIXES:
        base = METRICS_BY_NAME.get(name.removesuffix(suffix))
        if name.endswith(suffix) and base is not None and base.type is MetricType.HISTOGRAM:
            return base
    spec = METRICS_BY_NAME.get(name)
    return None if spec is None or spec.type is MetricType.HISTOGRAM else spec


def labels_of(name: str | None) -> set[str] | None:
    """The labels that series of this name have; `None` when there are no such series."""
    if name == "up":
        return set(_TARGET)
    if name in RECORDED:
        return set(name.partition(":")[0].split("_"))
    spec = spec_of(name)
    if name is None or spec is None:
        return None
    return _TARGET | set(spec.labels) | ({"le"} if name.endswith("_bucket") else set())


def is_counter(name: str | None) -> bool:
    """Whether series of this name only grow."""
    spec = spec_of(name)
    return spec is not None and spec.type in {MetricType.COUNTER, MetricType.HISTOGRAM}


def operands(expression: promql_parser.Expr) -> list[str]:
    """The parts of an alert's condition that have a value whether it holds or not."""
    if isinstance(expression, promql_parser.ParenExpr):
        return operands(expression.expr)
    if isinstance(expression, promql_parser.BinaryExpr) and str(expression.op) in {
        "==", "!=", ">", "<", ">=", "<=", "and", "or", "unless",
    }:  # fmt: skip
        return operands(expression.lhs) + operands(expression.rhs)
    if isinstance(expression, promql_parser.Call) and expression.func.name == "absent":
        return operands(expression.args[0])
    return [expression.prettify()] if selectors(expression) else []
