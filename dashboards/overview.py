"""Overview: is everything all right, by rate, errors, duration and saturation."""

from __future__ import annotations

from dashboards.parts import Bars, Column, Graph, Page, Query, Row, Stat, Table
from dashboards.promql import gauge, quantile, rate, select, total
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.specs import MetricSpec

FAILED = 'outcome=~"failed|interrupted"'
ENDED = 'outcome=~"success|failed|interrupted"'
"""A cancelled or rejected task neither succeeded nor failed: it is no part of the failure ratio."""
USED = 'state="used"'


def failure_ratio(*matchers: str, by: str = "") -> str:
    """The share of failures among the tasks that ran to an end."""
    failed = rate(signals.TASKS_FINISHED, FAILED, *matchers, by=by)
    return f"{failed} / {rate(signals.TASKS_FINISHED, ENDED, *matchers, by=by)}"


def saturation() -> str:
    """The used share of each executor's slots; an executor without a limit has no free ones, and no saturation."""
    used = gauge(signals.EXECUTOR_SLOTS, USED, by="executor")
    free = gauge(signals.EXECUTOR_SLOTS, 'state="free"', by="executor")
    return f"{used} / ({used} + {free})"


def quantiles(spec: MetricSpec, *matchers: str) -> list[Query]:
    """Median and tail of a histogram; the tail's exemplars are the traces to look at."""
    return [
        Query(quantile(0.5, spec, *matchers), "p50"),
        Query(quantile(0.95, spec, *matchers), "p95"),
        Query(quantile(0.99, spec, *matchers), "p99", exemplar=True),
    ]


def budget_left(*matchers: str, by: str = "") -> str:
    """The share of the error budget that is left, over the range that the board shows."""
    bad, judged = (
        total(signals.SLO_EVENTS, *matchers, 'result="bad"', by=by),
        total(signals.SLO_EVENTS, *matchers, by=by),
    )
    return f"1 - ({bad} / {judged}) / (1 - {gauge(signals.SLO_OBJECTIVE, *matchers, by=by)})"


def types() -> Table:
    """What each task type does, over the range that the board shows."""
    ended = total(signals.TASKS_FINISHED, ENDED, by="task")
    failed = total(signals.TASKS_FINISHED, FAILED, by="task")

    def p(q: float, spec: MetricSpec = signals.RUN_DURATION) -> str:
        return quantile(q, spec, by="task", shown=True)

    return Table(
        "By task type",
        "Each type over the time range that is shown: what ran to an end, run times, waits, the error budget.",
        "task",
        (
            Column("Ended", "short", ended),
            Column("Rate", "ops", f"sum by (task) (rate({select(signals.TASKS_FINISHED, ENDED)}[$__range]))"),
            Column("Failed", "short", failed),
            Column("Failure ratio", "percentunit", f"{failed} / {ended}"),
            Column("Run p50", "s", p(0.5)),
            Column("Run p95", "s", p(0.95)),
            Column("Run p99", "s", p(0.99)),
            Column("Wait p95", "s", p(0.95, signals.QUEUE_WAIT_TIME)),
            Column("Last success", "dateTimeFromNow", f"{gauge(signals.LAST_SUCCESS, by='task')} * 1000"),
            Column("Objective", "percentunit", gauge(signals.SLO_OBJECTIVE, by="task")),
            Column("Budget left", "percentunit", budget_left(by="task")),
        ),
    )


PAGE = Page(
    uid="taskflow-overview",
    title="Taskflow / Overview",
    description="Background tasks of the selected jobs: rate, errors, duration, saturation, age of the oldest task.",
    rows=(
        Row(
            "Now",
            (
                Stat(
                    "Finished",
                    "Tasks that reached their end, whatever their outcome.",
                    "ops",
                    Query(rate(signals.TASKS_FINISHED)),
                ),
                Stat(
                    "Failure ratio",
                    "Failed and interrupted tasks, as a share of all that ran to an end.",
                    "percentunit",
                    Query(failure_ratio()),
                    alarm=0.05,
                ),
                Stat(
                    "Queue wait, p95",
                    "Time from ready to started; a deliberate delay is not part of it.",
                    "s",
                    Query(quantile(0.95, signals.QUEUE_WAIT_TIME)),
                    alarm=30,
                ),
                Stat(
                    "Oldest ready task",
                    "How long the task that is ready the longest has been waiting for a slot.",
                    "s",
                    Query(gauge(signals.QUEUE_OLDEST_READY_AGE)),
                    alarm=300,
                ),
                Stat(
                    "Saturation",
                    "Used slots of the fullest executor that has a limit.",
                    "percentunit",
                    Query(f"max ({saturation()})"),
                    alarm=0.95,
                ),
                Stat(
                    "Ready", "Tasks that wait for a slot.", "short", Query(gauge(signals.QUEUE_DEPTH, 'state="ready"'))
                ),
            ),
        ),
        Row("Task types", (types(),)),
        Row(
            "Rate",
            (
                Graph(
                    "Accepted by task",
                    "Tasks accepted per second, by task.",
                    "ops",
                    [Query(rate(signals.TASKS_ENQUEUED, by="task"), "{{task}}")],
                    stacked=True,
                ),
                Graph(
                    "Finished by outcome",
                    "Tasks that reached their end per second, by outcome.",
                    "ops",
                    [Query(rate(signals.TASKS_FINISHED, by="outcome"), "{{outcome}}")],
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Errors",
            (
                Graph(
                    "Failure ratio by task",
                    "Failed and interrupted tasks, as a share of all that ran to an end; a gap means that none did.",
                    "percentunit",
                    [Query(failure_ratio(by="task"), "{{task}}")],
                    width=6,
                ),
                Bars(
                    "Top failing",
                    "The ten types with the most failed and interrupted tasks in the time range that is shown.",
                    "short",
                    Query(f"topk(10, {total(signals.TASKS_FINISHED, FAILED, by='task')})", "{{task}}"),
                    width=6,
                ),
                Graph(
                    "Exceptions by type",
                    "Exceptions that ended an attempt, per second, by their class.",
                    "ops",
                    [Query(rate(signals.TASK_EXCEPTIONS, by="error_type"), "{{error_type}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Retries by task",
                    "Failed attempts after which another was scheduled, per second.",
                    "ops",
                    [Query(rate(signals.TASK_RETRIES, by="task"), "{{task}}")],
                    width=6,
                ),
            ),
        ),
        Row(
            "Duration",
            (
                Graph(
                    "Run time",
                    "Run time of one attempt. The dots lead to traces.",
                    "s",
                    quantiles(signals.RUN_DURATION),
                    width=6,
                ),
                Graph(
                    "Run time by task, p95",
                    "Run time of one attempt, by task.",
                    "s",
                    [Query(quantile(0.95, signals.RUN_DURATION, by="task"), "{{task}}")],
                    width=6,
                ),
                Graph(
                    "Queue wait",
                    "Time from ready to started. The dots lead to traces.",
                    "s",
                    quantiles(signals.QUEUE_WAIT_TIME),
                    width=6,
                ),
                Graph(
                    "End to end",
                    "Time from creation to the end, retries and waits included. The dots lead to traces.",
                    "s",
                    quantiles(signals.END_TO_END),
                    width=6,
                ),
            ),
        ),
        Row(
            "Saturation",
            (
                Graph(
                    "Slots in use",
                    "Used share of each executor's slots, where it has a limit.",
                    "percentunit",
                    [Query(saturation(), "{{executor}}")],
                    width=6,
                ),
                Graph(
                    "Running by task",
                    "Attempts inside their function.",
                    "short",
                    [Query(gauge(signals.TASKS_RUNNING, by="task"), "{{task}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Waiting by queue",
                    "Tasks that wait for a slot.",
                    "short",
                    [Query(gauge(signals.QUEUE_DEPTH, 'state="ready"', by="queue"), "{{queue}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Oldest ready task by queue",
                    "How long the task that is ready the longest has been waiting for a slot.",
                    "s",
                    [Query(gauge(signals.QUEUE_OLDEST_READY_AGE, by="queue"), "{{queue}}")],
                    width=6,
                ),
            ),
        ),
    ),
)
