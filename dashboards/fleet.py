"""Queues and instances: who waits where, who runs what, and what the schedules do."""

from __future__ import annotations

from dashboards.parts import Choice, Graph, Page, Query, Row
from dashboards.promql import SCOPE, gauge, increase, quantile, rate, select
from taskflow_otel.exporters import signals

QUEUE = 'queue=~"$queue"'

PAGE = Page(
    uid="taskflow-fleet",
    title="Taskflow / Queues and instances",
    description="Each queue's backlog, wait and throughput; each instance's share of the work; the schedules.",
    choices=(Choice("queue", "Queue", f"label_values({select(signals.QUEUE_DEPTH)}, queue)"),),
    rows=(
        Row(
            "Queues",
            (
                Graph(
                    "Waiting",
                    "Tasks that wait in a queue: ready for a slot, or delayed on purpose.",
                    "short",
                    [Query(gauge(signals.QUEUE_DEPTH, QUEUE, by="queue, state"), "{{queue}}, {{state}}")],
                    stacked=True,
                    width=8,
                ),
                Graph(
                    "Oldest ready task",
                    "How long the task that is ready the longest has been waiting for a slot.",
                    "s",
                    [Query(gauge(signals.QUEUE_OLDEST_READY_AGE, QUEUE, by="queue"), "{{queue}}")],
                    width=8,
                ),
                Graph(
                    "Queue wait, p95",
                    "Time from ready to started. The dots lead to traces.",
                    "s",
                    [Query(quantile(0.95, signals.QUEUE_WAIT_TIME, QUEUE, by="queue"), "{{queue}}", exemplar=True)],
                    width=8,
                ),
                Graph(
                    "Accepted and started",
                    "Tasks accepted and attempts started per second: if the lines diverge, a backlog grows.",
                    "ops",
                    [
                        Query(rate(signals.TASKS_ENQUEUED, QUEUE, by="queue"), "{{queue}}, accepted"),
                        Query(rate(signals.QUEUE_WAIT_TIME, QUEUE, by="queue"), "{{queue}}, started"),
                    ],
                    width=6,
                ),
                Graph(
                    "Running",
                    "Attempts inside their function.",
                    "short",
                    [Query(gauge(signals.TASKS_RUNNING, QUEUE, by="queue"), "{{queue}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Paused",
                    "1 while a queue is paused: someone stopped it, on all instances.",
                    "short",
                    [Query(gauge(signals.QUEUE_PAUSED, QUEUE, by="queue"), "{{queue}}")],
                    width=6,
                ),
                Graph(
                    "Rejected",
                    "Tasks refused per second: the queue was full, the task a duplicate, or it could not be stored.",
                    "ops",
                    [Query(rate(signals.TASKS_FINISHED, QUEUE, 'outcome="rejected"', by="queue"), "{{queue}}")],
                    width=6,
                ),
            ),
        ),
        Row(
            "Shared queues",
            (
                Graph(
                    "In the pool",
                    "Tasks of shared queues that no instance has claimed yet.",
                    "short",
                    [Query(gauge(signals.POOL_DEPTH, QUEUE, by="queue"), "{{queue}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Oldest in the pool",
                    "How long the task that has been in the pool the longest has waited there.",
                    "s",
                    [Query(gauge(signals.POOL_OLDEST_AGE, QUEUE, by="queue"), "{{queue}}")],
                    width=6,
                ),
                Graph(
                    "Claimed",
                    "Tasks that instances took from the pool per second.",
                    "ops",
                    [Query(rate(signals.POOL_CLAIMS, QUEUE, by="queue"), "{{queue}}")],
                    width=6,
                ),
                Graph(
                    "Instances that claim",
                    "Living instances that take tasks of the queue from the pool; at 0 its tasks wait.",
                    "short",
                    [Query(gauge(signals.POOL_CLAIMERS, QUEUE, by="queue"), "{{queue}}")],
                    width=6,
                ),
                Graph(
                    "Doorbells",
                    "Messages to Celery per second: taken by the broker, failed, or sent again as nobody answered.",
                    "ops",
                    [Query(rate(signals.DOORBELLS, QUEUE, by="queue, result"), "{{queue}} {{result}}")],
                    width=24,
                ),
            ),
        ),
        Row(
            "Instances",
            (
                Graph(
                    "Up",
                    "1 while Prometheus can scrape the instance.",
                    "short",
                    [Query(f"up{{{', '.join(SCOPE)}}}", "{{instance}}")],
                    width=6,
                ),
                Graph(
                    "Finished by instance",
                    "Tasks that reached their end per second.",
                    "ops",
                    [Query(rate(signals.TASKS_FINISHED, by="instance"), "{{instance}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Running by instance",
                    "Attempts inside their function.",
                    "short",
                    [Query(gauge(signals.TASKS_RUNNING, by="instance"), "{{instance}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Versions",
                    "Instances by the version of taskflow-otel that they run.",
                    "short",
                    [Query(f"count by (version) ({select(signals.BUILD_INFO)})", "{{version}}")],
                    stacked=True,
                    width=6,
                ),
                Graph(
                    "Living processes",
                    "Processes behind each address, by their heartbeats, and by what they were started as.",
                    "short",
                    [Query(gauge(signals.INSTANCES, by="instance, kind"), "{{instance}}, {{kind}}")],
                    stacked=True,
                    width=8,
                ),
                Graph(
                    "Tasks of dead processes",
                    "Tasks taken over from processes that died, by what happened to them.",
                    "short",
                    [Query(increase(signals.TASKS_RECOVERED, by="reason"), "{{reason}}")],
                    width=8,
                ),
                Graph(
                    "Stuck",
                    "Attempts that were asked to stop and have not.",
                    "short",
                    [Query(gauge(signals.TASKS_STUCK, by="instance"), "{{instance}}")],
                    width=8,
                ),
            ),
        ),
        Row(
            "Schedules",
            (
                Graph(
                    "Next firing",
                    "Time to the next firing of each schedule; below zero it is late.",
                    "s",
                    [Query(f"{gauge(signals.SCHEDULE_NEXT_FIRE, by='schedule')} - time()", "{{schedule}}")],
                    width=6,
                ),
                Graph(
                    "Last firing",
                    "Time since each schedule last fired.",
                    "s",
                    [Query(f"time() - {gauge(signals.SCHEDULE_LAST_FIRE, by='schedule')}", "{{schedule}}")],
                    width=6,
                ),
                Graph(
                    "Lateness, p95",
                    "Time from a firing's due moment to its enqueueing.",
                    "s",
                    [Query(quantile(0.95, signals.SCHEDULE_LATENESS, by="schedule"), "{{schedule}}")],
                    width=6,
                ),
                Graph(
                    "Missed and failed firings",
                    "Firings that were skipped by a policy, or failed.",
                    "short",
                    [
                        Query(increase(signals.SCHEDULE_MISSED, by="schedule"), "{{schedule}}, missed"),
                        Query(increase(signals.SCHEDULE_ERRORS, by="schedule"), "{{schedule}}, failed"),
                    ],
                    width=6,
                ),
            ),
        ),
    ),
)
