"""Internals: the backend, the executors, and whether the telemetry itself is whole."""

from __future__ import annotations

from dashboards.parts import Graph, Heatmap, Page, Query, Row
from dashboards.promql import gauge, increase, quantile, rate
from taskflow_otel.exporters import signals

PAGE = Page(
    uid="taskflow-internals",
    title="Taskflow / Internals",
    description="Backend operations, executor slots, fenced writes, and what the telemetry lost or folded.",
    rows=(
        Row(
            "Backend",
            (
                Graph(
                    "Operations",
                    "Backend operations per second, by operation and outcome.",
                    "ops",
                    [
                        Query(
                            rate(signals.BACKEND_OPERATION, by="backend, operation, outcome"),
                            "{{backend}} {{operation}}, {{outcome}}",
                        )
                    ],
                    width=8,
                ),
                Graph(
                    "Time of an operation",
                    "Median and tail of one backend operation.",
                    "s",
                    [
                        Query(
                            quantile(0.5, signals.BACKEND_OPERATION, by="backend, operation"),
                            "{{backend}} {{operation}}, p50",
                        ),
                        Query(
                            quantile(0.99, signals.BACKEND_OPERATION, by="backend, operation"),
                            "{{backend}} {{operation}}, p99",
                        ),
                    ],
                    width=8,
                    height=9,
                ),
                Heatmap(
                    "Times of all operations",
                    "The distribution of backend operations over time.",
                    Query(increase(signals.BACKEND_OPERATION, suffix="_bucket", by="le"), "{{le}}"),
                    width=8,
                ),
                Graph(
                    "Backend up",
                    "1 while the backend answers the instance, 0 while it does not.",
                    "short",
                    [Query(gauge(signals.BACKEND_UP, by="instance, backend"), "{{instance}}, {{backend}}")],
                ),
                Graph(
                    "Refused tasks",
                    "Tasks that were refused, by reason. The clients of a refused commit got 503.",
                    "short",
                    [Query(increase(signals.TASKS_REFUSED, by="reason"), "{{reason}}")],
                ),
            ),
        ),
        Row(
            "Executors and ownership",
            (
                Graph(
                    "Slots",
                    "Slots of each executor: used or free. An executor without a limit has no free ones.",
                    "short",
                    [Query(gauge(signals.EXECUTOR_SLOTS, by="executor, state"), "{{executor}}, {{state}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Fenced writes",
                    "Writes that the ledger refused because another instance had taken the task over.",
                    "short",
                    [Query(increase(signals.FENCED_WRITES, by="instance"), "{{instance}}")],
                    width=6,
                ),
                Graph(
                    "Stuck attempts",
                    "Attempts that were asked to stop and have not.",
                    "short",
                    [Query(gauge(signals.TASKS_STUCK, by="instance"), "{{instance}}")],
                    width=6,
                ),
                Graph(
                    "Blocked event loop",
                    "Share of the time in which one callback kept the event loop for long, by the task that ran; "
                    "without a name if it was no task.",
                    "percentunit",
                    [Query(rate(signals.LOOP_BLOCKED, by="task"), "{{task}}")],
                    width=6,
                ),
            ),
        ),
        Row(
            "Telemetry",
            (
                Graph(
                    "Dropped events",
                    "Events that an exporter or observer did not get, because its queue was full or it was off.",
                    "short",
                    [Query(increase(signals.EVENTS_DROPPED, by="exporter"), "{{exporter}}")],
                    width=8,
                ),
                Graph(
                    "Exporter errors",
                    "Events lost to an exception in an exporter or observer.",
                    "short",
                    [Query(increase(signals.EXPORTER_ERRORS, by="exporter"), "{{exporter}}")],
                    width=8,
                ),
                Graph(
                    "Label overflow",
                    "Observations counted under _other because a label had too many values.",
                    "short",
                    [Query(increase(signals.LABEL_OVERFLOW, by="label"), "{{label}}")],
                    width=8,
                ),
            ),
        ),
    ),
)
