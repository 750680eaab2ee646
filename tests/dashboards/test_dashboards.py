"""The dashboards are what the generator writes, and obey the rules of Grafana's dashboard-linter that apply."""

from __future__ import annotations

import re
from collections import Counter

import promql_parser
import pytest

from dashboards.generate import render
from taskflow_otel.exporters.keys import ATTRIBUTES
from taskflow_otel.exporters.signals import METRICS
from taskflow_otel.exporters.specs import MetricType
from tests.dashboards.expressions import (
    DASHBOARDS,
    PANELS,
    QUERIES,
    RULE_EXPRESSIONS,
    STACK,
    Expression,
    Panel,
    is_counter,
    labels_of,
    nodes,
    selectors,
    spec_of,
)

each_dashboard = pytest.mark.parametrize("name", DASHBOARDS)
each_panel = pytest.mark.parametrize("panel", PANELS, ids=str)
each_query = pytest.mark.parametrize("query", QUERIES, ids=str)
each_expression = pytest.mark.parametrize("expression", QUERIES + RULE_EXPRESSIONS, ids=str)


def test_the_committed_dashboards_are_what_the_generator_writes() -> None:
    committed = {path.name: path.read_text() for path in (STACK / "grafana").glob("*.json")}
    assert committed == render(), "run: python -m dashboards.generate"


def test_every_metric_is_on_some_dashboard() -> None:
    shown = {spec.name for query in QUERIES for found in selectors(query.parse()) if (spec := spec_of(found.name))}
    assert shown == {spec.name for spec in METRICS}


@each_dashboard
def test_a_dashboard_is_read_only_and_of_the_current_schema(name: str) -> None:
    board = DASHBOARDS[name]
    assert (board["uid"], board["editable"]) == (name, False)
    assert board["title"]
    assert board["description"]
    assert board["schemaVersion"] >= 41


@each_dashboard
def test_a_dashboard_lets_the_reader_choose_data_source_jobs_and_instances(name: str) -> None:
    variables = {variable["name"]: variable for variable in DASHBOARDS[name]["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    # Outside of Kubernetes, series have no cluster and no namespace.
    for scope, everything in (("cluster", ".*"), ("namespace", ".*"), ("job", ".+"), ("instance", ".+")):
        variable = variables[scope]
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, everything)


@each_dashboard
def test_a_dashboard_marks_releases(name: str) -> None:
    [mark] = DASHBOARDS[name]["annotations"]["list"]
    assert (mark["enable"], mark["titleFormat"]) == (True, "Release {{release}}")


@each_dashboard
def test_variables_are_read_anew_when_the_time_range_changes(name: str) -> None:
    queried = [variable for variable in DASHBOARDS[name]["templating"]["list"] if variable["type"] == "query"]
    assert {variable["refresh"] for variable in queried} == {2}


@each_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = Counter(
        (x, y)
        for position in (panel["gridPos"] for panel in panels)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    )
    assert [cell for cell, number in cells.items() if number > 1 or cell[0] >= 24] == []


def test_the_task_dashboard_repeats_its_row_for_each_task() -> None:
    [row] = [panel for panel in DASHBOARDS["taskflow-task"]["panels"] if panel["type"] == "row"]
    assert row["repeat"] == "task"
    assert all("$task" in target["expr"] for panel in PANELS if panel.dashboard == "taskflow-task"
               for target in panel.model["targets"])  # fmt: skip


@each_panel
def test_a_panel_has_a_title_a_description_a_unit_and_a_chosen_data_source(panel: Panel) -> None:
    assert panel.model["title"]
    assert panel.model["description"].endswith(".")
    assert panel.model["targets"]
    expected = "${datasource}" if panel.on_prometheus else "${loki}"
    sources = [panel.model["datasource"], *(target["datasource"] for target in panel.model["targets"])]
    assert {source["uid"] for source in sources} == {expected}
    if panel.on_prometheus:
        assert panel.model["fieldConfig"]["defaults"]["unit"]


def test_the_log_panel_names_attributes_that_the_logs_have() -> None:
    [logs] = [panel for panel in PANELS if not panel.on_prometheus]
    [target] = logs.model["targets"]
    [(stream, attribute)] = re.findall(r'^\{(\w+)=~"\$service"\} \| (\w+)=~"\$task"$', target["expr"])
    assert stream == "service_name"
    assert attribute in {known.name.replace(".", "_") for known in ATTRIBUTES}


@each_query
def test_a_query_is_limited_to_the_chosen_jobs_and_instances(query: Expression) -> None:
    found = selectors(promql_parser.parse(re.sub(r"\[\$__\w+\]", "[1m]", query.text)))
    assert found
    for selector in found:
        by_regex = promql_parser.MatchOp.Re
        matched = {matcher.name: matcher.value for matcher in selector.matchers.matchers if matcher.op == by_regex}
        scope = ("cluster", "namespace", "job", "instance")
        assert [matched[name] for name in scope] == [f"${name}" for name in scope]


@each_query
def test_a_query_takes_rates_over_the_interval_that_grafana_chooses_or_all_that_is_shown(query: Expression) -> None:
    assert set(re.findall(r"\[(.*?)\]", query.text)) <= {"$__rate_interval", "$__range"}


@each_query
def test_a_legend_names_labels_that_the_result_has(query: Expression) -> None:
    [target] = [
        target for panel in PANELS for target in panel.model["targets"] if f"{panel} {target['refId']}" == query.where
    ]
    expression = query.parse()
    grouped = [
        set(node.modifier.labels)
        for node in nodes(expression)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
    ]
    own = [labels_of(selector.name) or set() for selector in selectors(expression)]
    for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
        assert all(label in labels for labels in grouped or own)


@each_expression
def test_an_expression_names_only_metrics_and_labels_that_exist(expression: Expression) -> None:
    parsed = expression.parse()
    for selector in selectors(parsed):
        known = labels_of(selector.name)
        assert known is not None, f"there is no metric {selector.name}"
        assert {matcher.name for matcher in selector.matchers.matchers} <= known
    for node in nodes(parsed):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            for selector in selectors(node.expr):
                assert set(node.modifier.labels) <= (labels_of(selector.name) or set())


@each_expression
def test_counters_are_read_as_rates_and_nothing_else_is(expression: Expression) -> None:
    parsed = expression.parse()
    rated = [
        argument.vector_selector.name
        for node in nodes(parsed)
        if isinstance(node, promql_parser.Call) and node.func.name in {"rate", "increase"}
        for argument in node.args
    ]
    assert all(is_counter(name) for name in rated)
    counters = Counter(selector.name for selector in selectors(parsed) if is_counter(selector.name))
    assert counters == Counter(rated)


@each_expression
def test_gauges_are_added_up_or_taken_at_their_highest_or_lowest_as_the_table_says(expression: Expression) -> None:
    for node in nodes(expression.parse()):
        if isinstance(node, promql_parser.AggregateExpr) and str(node.op) in {"sum", "max", "min"}:
            specs = [spec_of(selector.name) for selector in selectors(node.expr)]
            gauges = [spec for spec in specs if spec is not None and spec.type is MetricType.GAUGE]
            if isinstance(node.expr, promql_parser.VectorSelector):
                assert {spec.merge for spec in gauges} <= {str(node.op)}
