"""The table of every span, log event and metric that this library emits.

Exporters take their names from here, and those of attributes from `keys`. `docs/telemetry.md` is generated from it
(`python -m taskflow_otel.exporters.signals_doc`), and a test compares it with the emitted telemetry.
"""

from __future__ import annotations

from taskflow_otel.exporters import keys
from taskflow_otel.exporters.specs import LogSpec, MetricSpec, MetricType, SpanSpec
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import (
    OUTCOMES,
    AttemptOutcome,
    InstanceKind,
    QueueState,
    RecoveryOutcome,
    SlotState,
)

SCOPE = "taskflow_otel"
"""Name of the instrumentation scope of tracer, logger and meter."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"


_IDENTITY = (
    keys.MESSAGING_SYSTEM,
    keys.MESSAGING_DESTINATION_NAME,
    keys.MESSAGING_MESSAGE_ID,
    keys.QUEUE,
    keys.INSTANCE,
)


_MESSAGE = (
    *_IDENTITY,
    keys.MESSAGING_OPERATION_NAME,
    keys.MESSAGING_OPERATION_TYPE,
    keys.PRIORITY,
    keys.EXECUTOR,
    keys.SOURCE,
    keys.RELEASE,
)


ATTEMPT_ENDS = frozenset(OUTCOMES)

SEND = SpanSpec(
    operation="send",
    kind="PRODUCER",
    at_start=_MESSAGE,
    at_end=(keys.ERROR_TYPE,),
    starts="when the task is added, as a child of the span that is current there",
    ended_by=frozenset({Transition.ENQUEUED, Transition.REJECTED}),
)
PROCESS = SpanSpec(
    operation="process",
    kind="CONSUMER",
    at_start=(*_MESSAGE, keys.ATTEMPT, keys.QUEUE_WAIT),
    at_end=(keys.OUTCOME, keys.REASON, keys.ERROR_TYPE, keys.INTERRUPTED),
    starts="when the function is entered; current while it runs",
    ended_by=ATTEMPT_ENDS,
)
SPANS = (SEND, PROCESS)


_EVENTS = (
    LogSpec("taskflow.task.enqueued", "INFO", "the task was accepted", Transition.ENQUEUED),
    LogSpec("taskflow.task.started", "DEBUG", "an attempt entered the function", Transition.STARTED),
    LogSpec(
        "taskflow.task.retry_scheduled",
        "WARN",
        "an attempt failed, and another will follow",
        Transition.RETRY_SCHEDULED,
        exception=True,
    ),
    LogSpec("taskflow.task.succeeded", "INFO", "the task succeeded", Transition.SUCCEEDED),
    LogSpec("taskflow.task.failed", "ERROR", "the last attempt failed", Transition.FAILED, exception=True),
    LogSpec("taskflow.task.cancelled", "WARN", "the task was cancelled", Transition.CANCELLED),
    LogSpec("taskflow.task.interrupted", "ERROR", "the attempt ended with its process", Transition.INTERRUPTED),
    LogSpec("taskflow.task.recovered", "WARN", "the task was taken over and waits to run", Transition.RECOVERED),
    LogSpec("taskflow.task.rejected", "WARN", "the task was refused", Transition.REJECTED),
    LogSpec(
        "taskflow.task.objective_missed",
        "WARN",
        "the time limit of its objective passed before the task had ended",
        Transition.OBJECTIVE_MISSED,
    ),
)
TASK_LOG = LogSpec("taskflow.task.log", "as logged", "an entry written with `task_log`", None)
AUDIT = LogSpec(
    "taskflow.audit",
    "INFO, or WARN if not done",
    "someone acted through the administration, or tried to; it belongs to no task",
    None,
)
LOGS: dict[Transition, LogSpec] = {spec.transition: spec for spec in _EVENTS if spec.transition is not None}

# Few: each attribute of a record costs the SDK more than the engine needs for the transition.
LIFECYCLE_LOG_ATTRIBUTES = (
    keys.MESSAGING_DESTINATION_NAME,
    keys.MESSAGING_MESSAGE_ID,
    keys.QUEUE,
    keys.INSTANCE,
    keys.ATTEMPT,
    keys.REASON,
    keys.DURATION,
)
EXCEPTION_LOG_ATTRIBUTES = (keys.ERROR_TYPE, keys.EXCEPTION_TYPE, keys.EXCEPTION_MESSAGE, keys.EXCEPTION_STACKTRACE)
TASK_LOG_ATTRIBUTES = (keys.MESSAGING_DESTINATION_NAME, keys.MESSAGING_MESSAGE_ID, keys.QUEUE, keys.ATTEMPT)
AUDIT_LOG_ATTRIBUTES = (
    keys.AUDIT_ACTION,
    keys.AUDIT_OUTCOME,
    keys.AUDIT_TIMES,
    keys.HTTP_ROUTE,
    keys.HTTP_STATUS,
    keys.USER_NAME,
    keys.AUDIT_METHOD,
    keys.CLIENT_ADDRESS,
    keys.AUDIT_TARGET,
    keys.AUDIT_TASK,
    keys.AUDIT_OPERATION,
    keys.AUDIT_REASON,
    keys.AUDIT_DETAIL,
)


ELSEWHERE = "elsewhere"
"""The label of counts that are shown for processes which no scraped target shows."""


def _on(*transitions: Transition) -> frozenset[Transition]:
    return frozenset(transitions)


_TASK = ("task", "queue")
_T = Transition
_COUNTER, _GAUGE, _HISTOGRAM = MetricType.COUNTER, MetricType.GAUGE, MetricType.HISTOGRAM
JOB_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_OPERATION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_FINISHES = _on(_T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.INTERRUPTED)

TASKS_ENQUEUED = MetricSpec(
    "taskflow_tasks_enqueued_total",
    _COUNTER,
    "Tasks accepted.",
    (*_TASK, "source"),
    on=_on(_T.ENQUEUED),
)
TASK_ATTEMPTS = MetricSpec(
    "taskflow_task_attempts_total",
    _COUNTER,
    f"Attempts that ended, by outcome: {', '.join(AttemptOutcome)}.",
    (*_TASK, "outcome"),
    on=ATTEMPT_ENDS,
)
TASKS_FINISHED = MetricSpec(
    "taskflow_tasks_finished_total",
    _COUNTER,
    f"Tasks that reached their end, by outcome: {', '.join((*AttemptOutcome, TaskStatus.REJECTED))}.",
    (*_TASK, "outcome"),
    on=_FINISHES | {_T.REJECTED},
)
TASK_RETRIES = MetricSpec(
    "taskflow_task_retries_total",
    _COUNTER,
    "Failed attempts after which another was scheduled.",
    _TASK,
    on=_on(_T.RETRY_SCHEDULED),
)
TASK_EXCEPTIONS = MetricSpec(
    "taskflow_task_exceptions_total",
    _COUNTER,
    "Exceptions that ended an attempt, by their class.",
    ("task", "error_type"),
    on=_on(_T.FAILED, _T.RETRY_SCHEDULED),
)
RUN_DURATION = MetricSpec(
    "taskflow_task_run_duration_seconds",
    _HISTOGRAM,
    "Run time of one attempt.",
    ("task",),
    "seconds",
    JOB_BUCKETS,
    on=ATTEMPT_ENDS,
)
QUEUE_WAIT_TIME = MetricSpec(
    "taskflow_task_queue_wait_seconds",
    _HISTOGRAM,
    "Time from ready to started, without deliberate delays.",
    _TASK,
    "seconds",
    (0.005, *JOB_BUCKETS),
    on=_on(_T.STARTED),
)
END_TO_END = MetricSpec(
    "taskflow_task_end_to_end_seconds",
    _HISTOGRAM,
    "Time from creation to the end of a task that ran, including retries and waits.",
    ("task",),
    "seconds",
    (*JOB_BUCKETS, 21600.0),
    on=_FINISHES,
)
TASKS_RUNNING = MetricSpec(
    "taskflow_tasks_running",
    _GAUGE,
    "Attempts inside their function now.",
    _TASK,
    on=ATTEMPT_ENDS | {_T.STARTED},
)
LAST_SUCCESS = MetricSpec(
    "taskflow_task_last_success_timestamp_seconds",
    _GAUGE,
    "When a task of this type last succeeded, as Unix time; absent before the first.",
    ("task",),
    "seconds",
    on=_on(_T.SUCCEEDED),
    merge="max",
)
TASKS_REFUSED = MetricSpec(
    "taskflow_tasks_refused_total",
    _COUNTER,
    "Tasks that were refused, by reason; clients of a refused commit (`commit_failed`) got 503.",
    ("reason",),
    on=_on(_T.REJECTED),
)
TASKS_RECOVERED = MetricSpec(
    "taskflow_tasks_recovered_total",
    _COUNTER,
    f"Tasks of dead processes taken over: {', '.join(RecoveryOutcome)}.",
    ("reason",),
    on=_on(_T.RECOVERED, _T.INTERRUPTED, _T.FAILED),
)
SLO_EVENTS = MetricSpec(
    "taskflow_slo_events_total",
    _COUNTER,
    "Tasks judged by the objective of their type, once each, by result: good, bad.",
    ("task", "result"),
    on=_FINISHES | {_T.OBJECTIVE_MISSED},
)
SLO_OBJECTIVE = MetricSpec(
    "taskflow_slo_objective_ratio",
    _GAUGE,
    "The share of a type's tasks that must be good.",
    ("task",),
    merge="max",
)
SLO_WINDOW = MetricSpec(
    "taskflow_slo_window_seconds", _GAUGE, "The time over which that share is kept.", ("task",), "seconds", merge="max"
)
SLO_WITHIN = MetricSpec(
    "taskflow_slo_within_seconds",
    _GAUGE,
    "The time in which a task must succeed to be good; absent without a limit.",
    ("task",),
    "seconds",
    merge="max",
)
SLO_OVERDUE = MetricSpec(
    "taskflow_slo_overdue_tasks",
    _GAUGE,
    "Tasks that have not ended although the time limit of their objective has passed.",
    ("task",),
)
FENCED_WRITES = MetricSpec(
    "taskflow_fenced_writes_total",
    _COUNTER,
    "Writes that the ledger refused because another instance had taken the task over, or someone had deleted it.",
)
LABEL_OVERFLOW = MetricSpec(
    "taskflow_label_overflow_total",
    _COUNTER,
    "Observations counted under _other because a label had too many values.",
    ("label",),
)
BACKEND_OPERATION = MetricSpec(
    "taskflow_backend_operation_duration_seconds",
    _HISTOGRAM,
    "Time of one operation of the backend: a transaction (`apply`), a read, a heartbeat, and so on.",
    ("backend", "operation", "outcome"),
    "seconds",
    _OPERATION_BUCKETS,
)
BACKEND_UP = MetricSpec(
    "taskflow_backend_up",
    _GAUGE,
    "Whether the backend answers this instance: 0 while it does not.",
    ("backend",),
    merge="min",
)
QUEUE_DEPTH = MetricSpec(
    "taskflow_queue_depth",
    _GAUGE,
    f"Tasks that wait in a queue: {', '.join(QueueState)}.",
    ("queue", "state"),
)
QUEUE_OLDEST_READY_AGE = MetricSpec(
    "taskflow_queue_oldest_ready_age_seconds",
    _GAUGE,
    "How long the longest-waiting ready task has waited for a slot.",
    ("queue",),
    "seconds",
    merge="max",
)
QUEUE_PAUSED = MetricSpec(
    "taskflow_queue_paused",
    _GAUGE,
    "Whether a queue is paused, which it is on all instances: 1 while it starts no task, else 0.",
    ("queue",),
    merge="max",
)
INSTANCES = MetricSpec(
    "taskflow_instances",
    _GAUGE,
    f"Living processes behind this address, by what they were started as: {', '.join(InstanceKind)}.",
    ("kind",),
)
EXECUTOR_SLOTS = MetricSpec(
    "taskflow_executor_slots",
    _GAUGE,
    f"Slots of an executor: {', '.join(SlotState)}.",
    ("executor", "state"),
)
TASKS_STUCK = MetricSpec(
    "taskflow_tasks_stuck",
    _GAUGE,
    "Attempts that were asked to stop and still run.",
)
LOOP_BLOCKED = MetricSpec(
    "taskflow_event_loop_blocked_seconds_total",
    _COUNTER,
    "Time in which one callback kept the event loop, by the task that ran; without a name if it was no task.",
    ("task",),
    "seconds",
)
EVENTS_DROPPED = MetricSpec(
    "taskflow_events_dropped_total",
    _COUNTER,
    "Events that an observer did not get because its queue was full or it was off; "
    "spans (tracing) and records (logs) that were not exported to the collector.",
    ("exporter",),
)
EXPORTER_ERRORS = MetricSpec(
    "taskflow_exporter_errors_total",
    _COUNTER,
    "Events lost to an exception in an exporter or observer.",
    ("exporter",),
)
SCHEDULE_LAST_FIRE = MetricSpec(
    "taskflow_schedule_last_fire_timestamp_seconds",
    _GAUGE,
    "When a schedule last fired, as Unix time.",
    ("schedule",),
    "seconds",
    merge="max",
)
SCHEDULE_NEXT_FIRE = MetricSpec(
    "taskflow_schedule_next_fire_timestamp_seconds",
    _GAUGE,
    "When a schedule fires next, as Unix time.",
    ("schedule",),
    "seconds",
    merge="max",
)
SCHEDULE_LATENESS = MetricSpec(
    "taskflow_schedule_lateness_seconds",
    _HISTOGRAM,
    "Time from the scheduled time of a firing to its enqueueing.",
    ("schedule",),
    "seconds",
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0),
)
SCHEDULE_MISSED = MetricSpec(
    "taskflow_schedule_missed_total",
    _COUNTER,
    "Firings that did not run: skipped by the catch-up or overlap policy, or given up.",
    ("schedule",),
)
SCHEDULE_ERRORS = MetricSpec("taskflow_schedule_errors_total", _COUNTER, "Errors while firing.", ("schedule",))
BUILD_INFO = MetricSpec(
    "taskflow_build_info",
    MetricType.INFO,
    "The version of taskflow-otel, and the release of the application, if it was given.",
    ("version", "release"),
    merge="max",
)
POOL_DEPTH = MetricSpec(
    "taskflow_pool_depth", _GAUGE, "Tasks of a shared queue that wait in the pool.", ("queue",), merge="max"
)
POOL_OLDEST_AGE = MetricSpec(
    "taskflow_pool_oldest_age_seconds", _GAUGE, "How long the oldest of them waits.", ("queue",), "seconds", merge="max"
)
POOL_CLAIMERS = MetricSpec(
    "taskflow_pool_claimers", _GAUGE, "Living instances that claim tasks of a shared queue.", ("queue",), merge="max"
)
POOL_CLAIMS = MetricSpec("taskflow_pool_claims_total", _COUNTER, "Tasks claimed from the pool to run.", ("queue",))
DOORBELLS = MetricSpec(
    "taskflow_doorbells_total", _COUNTER, "Messages that tell Celery of tasks in the pool.", ("queue", "result")
)

METRICS = (
    TASKS_ENQUEUED,
    TASK_ATTEMPTS,
    TASKS_FINISHED,
    TASK_RETRIES,
    TASK_EXCEPTIONS,
    RUN_DURATION,
    QUEUE_WAIT_TIME,
    END_TO_END,
    TASKS_RUNNING,
    LAST_SUCCESS,
    TASKS_REFUSED,
    TASKS_RECOVERED,
    SLO_EVENTS,
    SLO_OBJECTIVE,
    SLO_WINDOW,
    SLO_WITHIN,
    SLO_OVERDUE,
    FENCED_WRITES,
    LABEL_OVERFLOW,
    BACKEND_OPERATION,
    BACKEND_UP,
    QUEUE_DEPTH,
    QUEUE_OLDEST_READY_AGE,
    QUEUE_PAUSED,
    POOL_DEPTH,
    POOL_OLDEST_AGE,
    POOL_CLAIMERS,
    POOL_CLAIMS,
    DOORBELLS,
    INSTANCES,
    EXECUTOR_SLOTS,
    TASKS_STUCK,
    LOOP_BLOCKED,
    EVENTS_DROPPED,
    EXPORTER_ERRORS,
    SCHEDULE_LAST_FIRE,
    SCHEDULE_NEXT_FIRE,
    SCHEDULE_LATENESS,
    SCHEDULE_MISSED,
    SCHEDULE_ERRORS,
    BUILD_INFO,
)
METRICS_BY_NAME = {spec.name: spec for spec in METRICS}


def otel_name(spec: MetricSpec) -> str:
    """The OpenTelemetry name of a metric; exporters to Prometheus turn it back into the original name."""
    return spec.name.replace("_", ".", 1).removesuffix("_total").removesuffix("_seconds")
