"""One task: what one task type does, with its traces and its logs."""

from __future__ import annotations

from dashboards.overview import budget_left, failure_ratio, quantiles
from dashboards.parts import Choice, Graph, Heatmap, Logs, Page, Query, Row, Stat
from dashboards.promql import gauge, increase, quantile, rate, select
from taskflow_otel.exporters import keys, signals
from taskflow_otel.exporters.specs import MetricSpec

TASK = 'task=~"$task"'


def _loki_name(attribute: str) -> str:
    """How Loki calls an attribute of a log record."""
    return attribute.replace(".", "_")


def _heatmap(spec: MetricSpec) -> Query:
    return Query(increase(spec, TASK, suffix="_bucket", by="le"), "{{le}}", exemplar=True)


PAGE = Page(
    uid="taskflow-task",
    title="Taskflow / One task",
    description="One task type: outcomes, run time with its traces, exceptions, and the log of its tasks.",
    logs=True,
    choices=(
        Choice("task", "Task", f"label_values({select(signals.TASKS_ENQUEUED)}, task)"),
        Choice("service", "Service (logs)", "service_name", logs=True),
    ),
    rows=(
        Row(
            "$task",
            (
                Stat("Finished", "Tasks that reached their end.", "ops", Query(rate(signals.TASKS_FINISHED, TASK))),
                Stat(
                    "Failure ratio",
                    "Failed and interrupted tasks, as a share of all that ran to an end.",
                    "percentunit",
                    Query(failure_ratio(TASK)),
                    alarm=0.05,
                ),
                Stat("Run time, p95", "Of one attempt.", "s", Query(quantile(0.95, signals.RUN_DURATION, TASK))),
                Stat(
                    "Queue wait, p95",
                    "Time from ready to started.",
                    "s",
                    Query(quantile(0.95, signals.QUEUE_WAIT_TIME, TASK)),
                    alarm=30,
                ),
                Stat("Running", "Attempts inside their function.", "short", Query(gauge(signals.TASKS_RUNNING, TASK))),
                Stat(
                    "Last success",
                    "Time since a task of this type last succeeded; nothing before the first.",
                    "s",
                    Query(f"time() - {gauge(signals.LAST_SUCCESS, TASK)}"),
                ),
                Heatmap(
                    "Run time",
                    "Run times of single attempts. Each dot is an exemplar: it leads to the trace.",
                    _heatmap(signals.RUN_DURATION),
                ),
                Heatmap(
                    "Queue wait",
                    "Times from ready to started. Each dot is an exemplar: it leads to the trace.",
                    _heatmap(signals.QUEUE_WAIT_TIME),
                ),
                Graph(
                    "Attempts by outcome",
                    "Attempts that ended, per second.",
                    "ops",
                    [Query(rate(signals.TASK_ATTEMPTS, TASK, by="outcome"), "{{outcome}}")],
                    stacked=True,
                    width=8,
                ),
                Graph(
                    "Exceptions by type",
                    "Exceptions that ended an attempt, per second, by their class.",
                    "ops",
                    [Query(rate(signals.TASK_EXCEPTIONS, TASK, by="error_type"), "{{error_type}}")],
                    stacked=True,
                    width=8,
                ),
                Graph(
                    "Accepted by source",
                    "Tasks accepted per second: by hand, by a schedule, or as a retry by hand.",
                    "ops",
                    [
                        Query(rate(signals.TASKS_ENQUEUED, TASK, by="source"), "{{source}}"),
                        Query(rate(signals.TASK_RETRIES, TASK), "automatic retries"),
                    ],
                    width=8,
                ),
                Graph("Run time", "Of one attempt.", "s", quantiles(signals.RUN_DURATION, TASK)),
                Graph(
                    "End to end",
                    "Time from creation to the end, retries and waits included.",
                    "s",
                    quantiles(signals.END_TO_END, TASK),
                ),
                Stat(
                    "Objective",
                    "The share of the tasks that must be good; empty for a type without an objective.",
                    "percentunit",
                    Query(gauge(signals.SLO_OBJECTIVE, TASK)),
                    width=3,
                ),
                Stat(
                    "Limit",
                    "The time in which a task must succeed to be good.",
                    "s",
                    Query(gauge(signals.SLO_WITHIN, TASK)),
                    width=3,
                ),
                Stat(
                    "Window",
                    "The time over which the objective is kept.",
                    "s",
                    Query(gauge(signals.SLO_WINDOW, TASK)),
                    width=4,
                ),
                Stat(
                    "Error budget left",
                    "What is left of the share that may be bad, over the time range that is shown.",
                    "percentunit",
                    Query(budget_left(TASK)),
                    width=4,
                ),
                Stat(
                    "Overdue",
                    "Tasks that have not ended although their time limit has passed.",
                    "short",
                    Query(gauge(signals.SLO_OVERDUE, TASK)),
                    alarm=1,
                    width=2,
                ),
                Graph(
                    "Good and bad",
                    "Tasks judged by their objective, per second.",
                    "ops",
                    [Query(rate(signals.SLO_EVENTS, TASK, by="result"), "{{result}}")],
                    stacked=True,
                    width=8,
                ),
                Logs(
                    "Log",
                    "What happened to tasks of this type and what they wrote; each line leads to its trace.",
                    f'{{service_name=~"$service"}} | {_loki_name(keys.MESSAGING_DESTINATION_NAME)}=~"$task"',
                ),
            ),
            repeat="task",
        ),
    ),
)
