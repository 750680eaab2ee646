"""What the dashboards have in common: variables, panels, and the frame that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import bargauge, heatmap, logs, loki, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.promql import SCOPE
from taskflow_otel.exporters.signals import BUILD_INFO

PROMETHEUS = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
LOKI = dashboard.DataSourceRef(type_val="loki", uid="${loki}")
TAG = "taskflow"
_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; with `exemplar` its points lead to traces."""

    expr: str
    legend: str = ""
    exemplar: bool = False


@dataclass(frozen=True, slots=True)
class Stat:
    """One number, red from `alarm` on."""

    title: str
    description: str
    unit: str
    query: Query
    alarm: float | None = None
    width: int = 4
    height: int = 4


@dataclass(frozen=True, slots=True)
class Graph:
    """Lines over time; `stacked` for parts of a whole."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    stacked: bool = False
    width: int = 12
    height: int = 8


@dataclass(frozen=True, slots=True)
class Heatmap:
    """The distribution of a histogram over time, its exemplars as dots that lead to traces."""

    title: str
    description: str
    query: Query
    unit: str = "s"
    width: int = 12
    height: int = 9


@dataclass(frozen=True, slots=True)
class Logs:
    """Log lines from Loki."""

    title: str
    description: str
    expr: str
    width: int = 24
    height: int = 10


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its unit, and the instant query whose value it shows for each row."""

    title: str
    unit: str
    expr: str


@dataclass(frozen=True, slots=True)
class Table:
    """One row for each value of the label `by`."""

    title: str
    description: str
    by: str
    columns: Sequence[Column]
    unit: str = "short"
    width: int = 24
    height: int = 9


@dataclass(frozen=True, slots=True)
class Bars:
    """The greatest values now, as bars."""

    title: str
    description: str
    unit: str
    query: Query
    width: int = 8
    height: int = 8


Panel = Stat | Graph | Heatmap | Logs | Table | Bars


@dataclass(frozen=True, slots=True)
class Row:
    """A titled group of panels, once for each value of the variable `repeat`."""

    title: str
    panels: Sequence[Panel]
    repeat: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable: the values of a label, all of them at first."""

    name: str
    label: str
    query: str
    logs: bool = False
    all_value: str = ".+"


@dataclass(frozen=True, slots=True)
class Page:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    choices: Sequence[Choice] = field(default_factory=tuple)
    logs: bool = False


def build(page: Page) -> dashboard.Dashboard:
    """The dashboard in Grafana's own model."""
    board = (
        builders.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .timezone("browser")
        .refresh("30s")
        .link(
            builders.DashboardLink("Taskflow dashboards")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if page.logs:
        board.with_variable(builders.DatasourceVariable("loki").label("Logs").type("loki"))
    for choice in (*_scope(), *page.choices):
        board.with_variable(_variable(choice))
    panel_id = 0
    for row in page.rows:
        panel_id += 1
        header = builders.Row(row.title).id(panel_id)
        if row.repeat is not None:
            header.repeat(row.repeat)
        board.with_row(header)
        for panel in row.panels:
            panel_id += 1
            board.with_panel(_panel(panel).id(panel_id))
        used = sum(panel.width for panel in row.panels)
        # The builder wraps at full lines only: a row that ends in a gap would push the next one beside it.
        if used % _WIDTH:
            raise ValueError(f"the panels of {row.title!r} are {used} columns wide, which is no multiple of {_WIDTH}")
    return board.build()


def _scope() -> tuple[Choice, ...]:
    info = BUILD_INFO.name
    places = 'cluster=~"$cluster", namespace=~"$namespace"'
    return (
        Choice("cluster", "Cluster", f"label_values({info}, cluster)", all_value=".*"),
        Choice("namespace", "Namespace", f'label_values({info}{{cluster=~"$cluster"}}, namespace)', all_value=".*"),
        Choice("job", "Job", f"label_values({info}{{{places}}}, job)"),
        Choice("instance", "Instance", f'label_values({info}{{{places}, job=~"$job"}}, instance)'),
    )


def releases() -> dict[str, object]:
    """A mark on every graph when a release is first seen: `TaskManager(release=...)`."""
    shown = f'count by (release) ({BUILD_INFO.name}{{{", ".join(SCOPE)}, release!=""}})'
    before = shown.replace("})", "} offset 2m)")
    return {
        "name": "Releases",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "iconColor": "blue",
        "expr": f"{shown} unless on (release) {before}",
        "step": "60s",
        "titleFormat": "Release {{release}}",
    }


def _variable(choice: Choice) -> builders.QueryVariable:
    return (
        builders.QueryVariable(choice.name)
        .label(choice.label)
        .query({"query": choice.query, "refId": f"{choice.name}-variable"} if not choice.logs else _loki_label(choice))
        .datasource(LOKI if choice.logs else PROMETHEUS)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(choice.all_value)
        .current(dashboard.VariableOption(text="All", value="$__all", selected=True))
    )


def _loki_label(choice: Choice) -> dict[str, object]:
    return {"label": choice.query, "refId": f"{choice.name}-variable", "stream": "", "type": 1}


def _panel(
    panel: Panel,
) -> stat.Panel | timeseries.Panel | heatmap.Panel | logs.Panel | table.Panel | bargauge.Panel:
    match panel:
        case Stat():
            return _stat(panel)
        case Graph():
            return _graph(panel)
        case Heatmap():
            return _heatmap(panel)
        case Logs():
            return _logs(panel)
        case Table():
            return _table(panel)
        case Bars():
            return _bars(panel)


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    targets = []
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(PROMETHEUS).range()
        if query.legend:
            target.legend_format(query.legend)
        targets.append(target.exemplar(query.exemplar))
    return targets


def _stat(panel: Stat) -> stat.Panel:
    steps = [dashboard.Threshold(value=None, color="green")]
    if panel.alarm is not None:
        steps.append(dashboard.Threshold(value=panel.alarm, color="red"))
    built = (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .thresholds(builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.AREA)
    )
    for target in _targets([panel.query]):
        built.with_target(target)
    return built


def _graph(panel: Graph) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .axis_soft_min(0)
        .span(panel.width)
        .height(panel.height)
        .line_width(1)
        .fill_opacity(20 if panel.stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    )
    if panel.stacked:
        built.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    for target in _targets(panel.queries):
        built.with_target(target)
    return built


def _heatmap(panel: Heatmap) -> heatmap.Panel:
    [target] = _targets([panel.query])
    return (
        heatmap.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(PROMETHEUS)
        .unit("short")
        .span(panel.width)
        .height(panel.height)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(panel.unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .exponent(0.5)
            .steps(64)
        )
        .exemplars_color("rgba(255,0,255,0.7)")
        .show_legend()
        .with_target(target.format(PromQueryFormat.HEATMAP))
    )


def _logs(panel: Logs) -> logs.Panel:
    return (
        logs.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(LOKI)
        .span(panel.width)
        .height(panel.height)
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(common.LogsSortOrder.DESCENDING)
        .with_target(loki.Dataquery().expr(panel.expr).ref_id("A").datasource(LOKI).query_type("range"))
    )


def _table(panel: Table) -> table.Panel:
    letters = "ABCDEFGHIJKLMNOP"[: len(panel.columns)]
    built = (
        table.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .filterable(True)
        .with_transformation(
            dashboard.DataTransformerConfig("joinByField", options={"byField": panel.by, "mode": "outer"})
        )
        .with_transformation(
            dashboard.DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": {name: True for n in range(1, len(letters) + 1) for name in ("Time", f"Time {n}")},
                    "renameByName": {
                        panel.by: panel.by.capitalize(),
                        **{f"Value #{letter}": one.title for letter, one in zip(letters, panel.columns, strict=True)},
                    },
                },
            )
        )
    )
    for letter, column in zip(letters, panel.columns, strict=True):
        query = prometheus.Dataquery().expr(column.expr).ref_id(letter).datasource(PROMETHEUS)
        built.with_target(query.instant().format(PromQueryFormat.TABLE))
        built.override_by_name(column.title, [dashboard.DynamicConfigValue("unit", column.unit)])
    return built


def _bars(panel: Bars) -> bargauge.Panel:
    built = (
        bargauge.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(PROMETHEUS)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .orientation(common.VizOrientation.HORIZONTAL)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    target = prometheus.Dataquery().expr(panel.query.expr).ref_id("A").datasource(PROMETHEUS).instant()
    return built.with_target(target.legend_format(panel.query.legend))
