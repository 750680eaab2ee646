"""Every lifecycle transition, driven in every executor, against the table of signals, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskflow_otel import Telemetry
from taskflow_otel.backends.base import Update
from taskflow_otel.exporters import keys, messaging, signals
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.logs import LogsExporter
from taskflow_otel.exporters.prometheus.values import Histogram
from taskflow_otel.exporters.specs import MetricSpec, SpanSpec
from taskflow_otel.model.options import ExecutorName
from taskflow_otel.model.status import TRANSITIONS, TaskStatus, Transition
from taskflow_otel.model.vocabulary import AuditOutcome
from taskflow_otel.testing.backends.admin import make_entry
from taskflow_otel.testing.backends.samples import BASE
from taskflow_otel.testing.clock import settle
from tests.engine.scenes import (
    EXECUTORS,
    LastingPool,
    Scene,
    Step,
    cancel,
    delayed,
    fail,
    lasting_pool,
    ready,
    rejected,
    running,
    running_again,
    shut_down,
    start,
    succeed,
)
from tests.waiting import eventually

driven = pytest.mark.asyncio(loop_scope="module")

P, R, T = TaskStatus.PENDING, TaskStatus.RUNNING, Transition
Series = tuple[str, tuple[tuple[str, object], ...]]
"""The name of a metric, and labels with their values."""


class Watched(Scene):
    """A scene whose telemetry, that of the instance it is about, is there to be read."""

    def telemetry(self) -> Telemetry:
        self.spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.logs = InMemoryLogRecordExporter()
        tracing, logging = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(self.spans))
        logging.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        metrics = MeterProvider([self._reader], shutdown_on_exit=False)
        return Telemetry(tracer_provider=tracing, logger_provider=logging, meter_provider=metrics)

    def numbers(self) -> dict[Series, float]:
        """What the metrics page and OpenTelemetry show, without what is zero."""
        found: dict[Series, float] = {}
        for name, children in self.manager.metrics.snapshot().items():
            for values, value in children.items():
                labels = zip(signals.METRICS_BY_NAME[name].labels, values, strict=True)
                found[name, tuple(labels)] = sum(value.counts) if isinstance(value, Histogram) else value
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                for point in metric.data.data_points:
                    value = point.value if isinstance(point, NumberDataPoint) else point.count
                    found[metric.name, tuple((point.attributes or {}).items())] = value
        return {series: value for series, value in found.items() if value}

    async def watch(self, what: Step) -> dict[str, set[str]]:
        """Let something happen until it has been told; the metrics that it moved, with their labels."""
        self.spans.clear()
        self.logs.clear()
        before = self.numbers()
        await what(self)
        await eventually(lambda: bool(self.logs.get_finished_logs()), "a log record", interval=0.002)
        await settle()
        after = self.numbers()
        moved = [series for series in before | after if before.get(series) != after.get(series)]
        return {name: {label for label, _ in labels} for name, labels in moved if name not in AMBIENT}


@dataclass(frozen=True)
class Case:
    """One transition as one instance tells it."""

    previous: TaskStatus | None
    transition: Transition
    reason: str | None
    arrange: Step
    act: Step
    requeue_on_interrupt: bool = False
    taken_over: bool = False
    """Whether the instance has the task from another that died."""
    within: float = 3600.0
    """The seconds in which the task must succeed by its objective."""


async def nothing(_: Scene) -> None:
    """The task does not exist yet."""


async def left_waiting(scene: Scene) -> None:
    await ready(scene)
    await scene.manager.shutdown()


async def dead(scene: Scene) -> None:
    await running(scene)
    # What is taken over stays where it is.
    await scene.manager.pause_queue("default")
    await scene.die()


async def dead_thrice(scene: Scene) -> None:
    await running(scene)
    record = await scene.stored()
    record.crashes = 2
    await scene.backend.apply([Update(record)])
    await scene.die()


async def left_and_not_kept(scene: Scene) -> None:
    await ready(scene)
    # As a task of a type that is not persisted, which is in the ledger for its key.
    scene.backend._tasks[scene.task_id].persisted = False
    await scene.die()


async def be_late(scene: Scene) -> None:
    await scene.clock.advance(LIMIT)


async def start_up(scene: Scene) -> None:
    await scene.manager.startup()


async def say(scene: Scene) -> None:
    scene.gate.open("say")


LIMIT = 5.0

CASES = [
    Case(None, T.ENQUEUED, "delayed", nothing, delayed),
    Case(None, T.REJECTED, "queue_full", nothing, rejected),
    Case(P, T.STARTED, None, ready, start),
    Case(P, T.CANCELLED, "cancelled", ready, cancel),
    Case(P, T.CANCELLED, "process_died", left_and_not_kept, start_up, taken_over=True),
    Case(P, T.OBJECTIVE_MISSED, None, ready, be_late, within=LIMIT),
    Case(R, T.OBJECTIVE_MISSED, None, running, be_late, within=LIMIT),
    Case(P, T.RECOVERED, "takeover", left_waiting, start_up, taken_over=True),
    Case(R, T.SUCCEEDED, None, running, succeed),
    Case(R, T.FAILED, None, running_again, fail),
    Case(R, T.FAILED, "poison", dead_thrice, start_up, requeue_on_interrupt=True, taken_over=True),
    Case(R, T.RETRY_SCHEDULED, "retry_wait", running, fail),
    Case(R, T.CANCELLED, "cancelled", running, cancel),
    Case(R, T.INTERRUPTED, "shutdown", running, shut_down),
    Case(R, T.INTERRUPTED, "process_died", dead, start_up, taken_over=True),
    Case(R, T.RECOVERED, "shutdown", running, shut_down, requeue_on_interrupt=True),
    Case(R, T.RECOVERED, "process_died", dead, start_up, requeue_on_interrupt=True, taken_over=True),
]

# Read from the engine at each scrape, or moved by every write.
_AMBIENT = (
    signals.BACKEND_OPERATION,
    signals.BACKEND_UP,
    signals.QUEUE_DEPTH,
    signals.QUEUE_OLDEST_READY_AGE,
    signals.QUEUE_PAUSED,
    signals.INSTANCES,
    signals.EXECUTOR_SLOTS,
    signals.BUILD_INFO,
    signals.SLO_OBJECTIVE,
    signals.SLO_WINDOW,
    signals.SLO_WITHIN,
    signals.SLO_OVERDUE,
)
AMBIENT = {name for spec in _AMBIENT for name in (spec.name, signals.otel_name(spec))}
OF_ATTEMPTS = {signals.TASK_ATTEMPTS, signals.RUN_DURATION, signals.END_TO_END, messaging.PROCESS_DURATION}
# Known to the process of the attempt alone.
DIES_WITH_ITS_PROCESS = {keys.QUEUE_WAIT, keys.EXCEPTION_STACKTRACE, keys.RELEASE}


def told(spec: SpanSpec, case: Case) -> bool:
    """Whether this span ends here: `send` once, `process` with its attempt."""
    return case.transition in spec.ended_by and case.previous is (None if spec is signals.SEND else R)


def moves(spec: MetricSpec, case: Case) -> bool:
    """Whether this metric moves: its help says where not every transition of that name counts."""
    if case.transition not in spec.on:
        return False
    if spec in OF_ATTEMPTS:
        return case.previous is R
    if spec is signals.TASKS_RUNNING:
        return case.transition is T.STARTED or (case.previous is R and not case.taken_over)
    if spec is signals.SLO_EVENTS:
        return case.reason != "cancelled"
    return spec is not signals.TASKS_RECOVERED or case.taken_over


def span_attributes(spec: SpanSpec, case: Case) -> set[str]:
    """The attributes at the start, and those at the end that say something here."""
    silent = set() if case.reason else {keys.REASON}
    if case.transition in {T.ENQUEUED, T.SUCCEEDED, T.CANCELLED}:
        silent.add(keys.ERROR_TYPE)
    if case.transition not in {T.INTERRUPTED, T.RECOVERED} and not case.taken_over:
        silent.add(keys.INTERRUPTED)
    return {*spec.at_start, *spec.at_end} - silent - (DIES_WITH_ITS_PROCESS if case.taken_over else set())


def log_attributes(case: Case) -> set[str]:
    """The attributes of the transition's log record that say something here."""
    silent = set() if case.reason else {keys.REASON}
    if case.previous is not R or case.transition is T.OBJECTIVE_MISSED:
        silent.add(keys.DURATION)
    exception = signals.EXCEPTION_LOG_ATTRIBUTES if signals.LOGS[case.transition].exception else ()
    lost = DIES_WITH_ITS_PROCESS if case.taken_over else set()
    return {*signals.LIFECYCLE_LOG_ATTRIBUTES, *exception} - silent - lost


def metric_labels(case: Case) -> dict[str, set[str]]:
    """The metrics that move, each under both of its names, with their labels."""
    found = {}
    for spec in signals.METRICS:
        if moves(spec, case):
            found[spec.name] = found[signals.otel_name(spec)] = set(spec.labels)
    for spec in messaging.MESSAGING_METRICS:
        if moves(spec, case):
            silent = set() if signals.LOGS[case.transition].exception else {keys.ERROR_TYPE}
            found[spec.name] = set(spec.labels) - silent
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LastingPool]:
    async with lasting_pool() as pool:
        yield pool


@driven
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.previous}-{case.transition}-{case.reason}")
@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_transition_emits_exactly_what_the_table_promises(
    executor: ExecutorName, case: Case, pool: LastingPool, tmp_path: Path
) -> None:
    async with Watched(
        executor, pool, tmp_path, requeue_on_interrupt=case.requeue_on_interrupt, within=case.within
    ) as scene:
        await case.arrange(scene)
        moved = await scene.watch(case.act)
        record = await scene.stored()
        last = (record.status, record.timeline[-1].transition, record.timeline[-1].reason)
        assert last == (TRANSITIONS[case.previous, case.transition], case.transition, case.reason)

        spans = {span.name: span for span in scene.spans.get_finished_spans()}
        promised = {spec.name("gated"): spec for spec in signals.SPANS if told(spec, case)}
        assert len(scene.spans.get_finished_spans()) == len(spans)
        assert set(spans) == set(promised)
        for name, spec in promised.items():
            attributes = spans[name].attributes or {}
            assert set(attributes) == span_attributes(spec, case)
            assert (spans[name].kind.name, attributes[keys.EXECUTOR]) == (spec.kind, executor)

        (entry,) = [logged.log_record for logged in scene.logs.get_finished_logs()]
        log = signals.LOGS[case.transition]
        assert (entry.event_name, entry.severity_text) == (log.event_name, log.severity)
        assert set(entry.attributes or {}) == log_attributes(case)

        assert moved == metric_labels(case)


@driven
@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_log_entry_is_one_log_record_and_nothing_else(
    executor: ExecutorName, pool: LastingPool, tmp_path: Path
) -> None:
    async with Watched(executor, pool, tmp_path) as scene:
        await running(scene)
        assert await scene.watch(say) == {}
        (entry,) = [logged.log_record for logged in scene.logs.get_finished_logs()]
        assert entry.event_name == signals.TASK_LOG.event_name
        assert set(entry.attributes or {}) == {*signals.TASK_LOG_ATTRIBUTES, keys.LOG_PREFIX + "rows"}
        assert scene.spans.get_finished_spans() == ()


def test_every_promise_of_the_table_is_put_to_the_test() -> None:
    # The table allows a waiting task to be refused, which nothing does.
    assert {(case.previous, case.transition) for case in CASES} == set(TRANSITIONS) - {(P, T.REJECTED)}
    for span in signals.SPANS:
        cases = [case for case in CASES if told(span, case)]
        assert {case.transition for case in cases} == span.ended_by
        assert set().union(*(span_attributes(span, case) for case in cases)) == {*span.at_start, *span.at_end}
    for metric in (*signals.METRICS, *messaging.MESSAGING_METRICS):
        assert {case.transition for case in CASES if moves(metric, case)} == metric.on


def test_an_entry_of_the_audit_is_one_log_record_with_what_the_entry_knows() -> None:
    logs, provider = InMemoryLogRecordExporter(), LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    exporter = LogsExporter(provider)
    facts = {name: f"the {name}" for name in ("target", "task_id", "operation_id", "reason", "detail")}
    exporter.on_audit(make_entry(**facts, times=3))
    exporter.on_audit(
        make_entry(actor=None, method=None, client=None, outcome=AuditOutcome.REFUSED.value, status=401, task_id="t")
    )
    done, refused = [logged.log_record for logged in logs.get_finished_logs()]
    assert {done.event_name, refused.event_name} == {signals.AUDIT.event_name}
    assert (done.severity_text, refused.severity_text) == ("INFO", "WARN")
    assert set(done.attributes or {}) == set(signals.AUDIT_LOG_ATTRIBUTES)
    assert set(refused.attributes or {}) < set(signals.AUDIT_LOG_ATTRIBUTES)
    assert dict(done.attributes or {}) == {
        "taskflow.audit.action": "retry-task",
        "taskflow.audit.outcome": "done",
        "taskflow.audit.method": "session",
        "taskflow.audit.target": "the target",
        "taskflow.audit.task": "the task_id",
        "taskflow.audit.operation": "the operation_id",
        "taskflow.audit.reason": "the reason",
        "taskflow.audit.detail": "the detail",
        "taskflow.audit.times": 3,
        "user.name": "ada",
        "client.address": "192.0.2.1",
        "http.route": "POST /tasks/{task_id}/retry",
        "http.response.status_code": 202,
    }
    assert dict(refused.attributes or {}) == {
        "taskflow.audit.action": "retry-task",
        "taskflow.audit.outcome": "refused",
        "taskflow.audit.task": "t",
        "taskflow.audit.times": 1,
        "http.route": "POST /tasks/{task_id}/retry",
        "http.response.status_code": 401,
    }
    assert (done.timestamp, refused.timestamp) == (spans.nanoseconds(BASE),) * 2
    assert done.body == "ada: retry-task the task_id: done"
    assert refused.body == "anonymous: retry-task t: refused"
