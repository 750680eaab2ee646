"""Compares the ledger with the telemetry, and lists every difference.

The ledger is the truth. Each line of a task's timeline is one transition: one step of the counters, one log record,
and the start or the end of a span. Compare while no task runs: a change during the comparison is a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from taskflow_otel.backends.base import Backend
from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.exporters import keys, signals
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.task_counts import OTHER
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.replay import replay
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.reconcile.otlp_file import Exported, ExportedLog, ExportedSpan
from taskflow_otel.reconcile.totals import SAMPLES, Totals, added_up, ledger_totals, page_totals

_PAGE = 500
_SAMPLED = 0x01
_UNLIMITED = 10**9

_FAILED = frozenset({Transition.FAILED, Transition.RETRY_SCHEDULED, Transition.INTERRUPTED, Transition.RECOVERED})
_STALE = "StaleTokenError"
_NAMES = frozenset({"task", "queue"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One disagreement between the ledger and a witness."""

    witness: str
    """`spans`, `logs`, the name of a metrics page, or `ledger` if the ledger contradicts itself."""
    what: str
    expected: str
    """What the ledger says."""
    found: str

    def __str__(self) -> str:
        return f"{self.witness}: {self.what}: expected {self.expected}, found {self.found}"


async def reconcile(
    backend: Backend,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    metrics: Mapping[str, str] | None = None,
    together: bool = False,
    totals: Mapping[str, Totals] | None = None,
    baseline: str | None = None,
    exported: Exported | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Difference]:
    """Compare the tasks created in a range of time with metrics, spans and logs; return every difference.

    `backend` must be open. `metrics`: pages in the Prometheus text format, by name. Each is compared on its own, as the
    answers of the workers of one target; with `together`, they are those of all targets, and their sum is compared.
    `totals`: what others have added up, by name. Counters count from the start of the service: for a range
    with `since`, give the page of that moment as `baseline`. `exported`: what a collector wrote, from `read_exports`.
    If a page counts some tasks as `_other`, only totals are compared. `progress` is called with the number of tasks so
    far.

    Raises `ConfigurationError` for text that is not a metrics page, and the errors of the backend.
    """
    counted = PrometheusExporter(max_label_values=_UNLIMITED)
    differences: list[Difference] = []
    before = {} if baseline is None else page_totals(baseline, "the baseline")
    ids: set[str] = set()
    number = 0
    async for record in _records(backend, since, until):
        number += 1
        if progress is not None and number % _PAGE == 0:
            progress(number)
        try:
            events = list(replay(record))
        except IllegalTransitionError as exc:
            differences.append(Difference("ledger", f"timeline of {_title(record)}", "a legal one", str(exc)))
            continue
        for event in events:
            counted.on_lifecycle(event)
        differences += _check_record(record, events)
        if exported is not None:
            ids.add(record.task_id)
            if exported.has_spans:
                differences += _check_spans(record, events, exported.spans.get(record.task_id, []))
            if exported.has_logs:
                lines = len(await backend.logs(record.task_id)) + record.logs_dropped
                differences += _check_logs(record, events, lines, exported.logs.get(record.task_id, []))
    expected = ledger_totals(counted)
    witnesses = {name: page_totals(page, name) for name, page in (metrics or {}).items()}
    if together and witnesses:
        witnesses = {" + ".join(witnesses): added_up((*key, n) for one in witnesses.values() for key, n in one.items())}
    if exported is not None and exported.has_metrics:
        witnesses["the exported metrics"] = exported.totals()
    for name, found in {**witnesses, **(totals or {})}.items():
        differences += _check_metrics(name, expected, found, before)
    if exported is not None:
        differences += [one async for one in _unknown(backend, exported, ids, since, until)]
    return differences


async def _records(backend: Backend, since: datetime | None, until: datetime | None) -> AsyncIterator[TaskRecord]:
    cursor: str | None = None
    while True:
        page = await backend.page(TaskQuery(since=since, until=until, limit=_PAGE, cursor=cursor))
        for record in page.records:
            yield record
        cursor = page.next_cursor
        if cursor is None:
            return


def _title(record: TaskRecord) -> str:
    return f"{record.func_name} {record.task_id}"


def _check_record(record: TaskRecord, events: Sequence[LifecycleEvent]) -> Iterator[Difference]:
    """Compare the record with its own timeline."""
    title = _title(record)
    if not events:
        yield Difference("ledger", f"timeline of {title}", "at least one line", "none")
        return
    if events[-1].status is not record.status:
        yield Difference("ledger", f"status of {title}", f"{events[-1].status}, by its timeline", str(record.status))
    retries = sum(event.transition is Transition.RETRY_SCHEDULED for event in events)
    if retries != record.retries_used:
        yield Difference("ledger", f"retries of {title}", f"{retries}, by its timeline", str(record.retries_used))
    if record.status.finished and record.end_time is None:
        yield Difference("ledger", f"end of {title}", "a time", "none")


def _check_metrics(name: str, expected: Totals, found: Totals, before: Totals) -> Iterator[Difference]:
    moved = {key: value - before.get(key, 0.0) for key, value in found.items()}
    if any(OTHER in labels[:2] for _, labels in found):
        # Processes may differ in which names they count under `_other`.
        expected, moved = _without_names(expected), _without_names(moved)
    for key in sorted(expected.keys() | moved.keys()):
        sample, labels = key
        want, have = expected.get(key, 0.0), moved.get(key, 0.0)
        if want == have or (labels[-1:] == (TaskStatus.REJECTED.value,) and have > want):
            # A task that was refused because its commit failed is not in the ledger.
            continue
        yield Difference(name, f"{sample}{{{', '.join(labels)}}}", f"{want:g}", f"{have:g}")


def _without_names(totals: Totals) -> Totals:
    sums: Totals = {}
    for (sample, labels), value in totals.items():
        names = zip(SAMPLES[sample].labels, labels, strict=True)
        key = sample, tuple([value for name, value in names if name not in _NAMES])
        sums[key] = sums.get(key, 0.0) + value
    return sums


def _check_spans(
    record: TaskRecord, events: Sequence[LifecycleEvent], spans: Sequence[ExportedSpan]
) -> Iterator[Difference]:
    creation = record.trace.creation
    sends = [span for span in spans if span.operation == "send"]
    sampled = creation.valid and bool(creation.trace_flags & _SAMPLED)
    refused = events[0].transition is Transition.REJECTED and events[0].reason != Reason.DUPLICATE
    if sampled:
        yield from _compared("spans", f"send span of {_title(record)}", [creation.span_id], [s.span_id for s in sends])
        for span in sends:
            yield from _same_error(record, span, refused)
    latest = record.trace.attempt
    if not sampled or (latest is not None and not latest.trace_flags & _SAMPLED):
        # The ledger does not know which of the earlier attempts were sampled.
        return
    # A process that was paused, and lost its task to another one, exports a span that the ledger does not know.
    found = [
        s for s in spans if s.operation == signals.PROCESS.operation and s.attributes.get(keys.ERROR_TYPE) != _STALE
    ]
    ends = [(event.attempt, event) for event in events if event.ends_attempt]
    yield from _compared(
        "spans",
        f"ended attempts of {_title(record)}",
        [str(attempt) for attempt, _ in ends],
        [str(span.attributes.get(keys.ATTEMPT)) for span in found],
    )
    by_attempt = dict(ends)
    for span in found:
        event = by_attempt.get(span.attributes.get(keys.ATTEMPT, -1))
        if event is None:
            continue
        outcome = [str(span.attributes.get(keys.OUTCOME))]
        yield from _compared("spans", f"outcome of {_span_title(record, span)}", [str(event.transition)], outcome)
        yield from _same_error(record, span, event.transition in _FAILED)
        if creation.span_id not in span.links:
            yield Difference("spans", f"links of {_span_title(record, span)}", f"{creation.span_id} (send)", "not it")


def _span_title(record: TaskRecord, span: ExportedSpan) -> str:
    return f"{span.name} {span.span_id} of {record.task_id}"


def _same_error(record: TaskRecord, span: ExportedSpan, error: bool) -> Iterator[Difference]:
    if span.error is not error:
        words = {True: "an error", False: "no error"}
        yield Difference("spans", f"status of {_span_title(record, span)}", words[error], words[span.error])


def _check_logs(
    record: TaskRecord, events: Sequence[LifecycleEvent], lines: int, logs: Sequence[ExportedLog]
) -> Iterator[Difference]:
    expected = Counter([signals.LOGS[event.transition].event_name for event in events])
    expected[signals.TASK_LOG.event_name] += lines
    found = Counter([log.event_name for log in logs])
    for name in sorted(expected.keys() | found.keys()):
        if expected[name] != found[name]:
            yield Difference("logs", f"{name} of {_title(record)}", str(expected[name]), str(found[name]))


def _compared(witness: str, what: str, expected: Iterable[str], found: Iterable[str]) -> Iterator[Difference]:
    want, have = sorted(expected), sorted(found)
    if want != have:
        yield Difference(witness, what, ", ".join(want) or "none", ", ".join(have) or "none")


async def _unknown(
    backend: Backend, exported: Exported, ids: set[str], since: datetime | None, until: datetime | None
) -> AsyncIterator[Difference]:
    """Find exported tasks of the range that the ledger does not hold."""
    moments = {task_id: spans[0].started_at for task_id, spans in exported.spans.items()}
    moments |= {task_id: logs[0].logged_at for task_id, logs in exported.logs.items()}
    for task_id in sorted(moments.keys() - ids):
        if (since is not None and moments[task_id] < since) or (until is not None and moments[task_id] >= until):
            continue
        # The ledger may hold it, with a creation time outside the range.
        if await backend.get(task_id) is not None:
            continue
        spans, logs = exported.spans.get(task_id, []), exported.logs.get(task_id, [])
        names = {span.name for span in spans} | {log.event_name for log in logs}
        if _never_stored(spans, logs):
            continue
        yield Difference("ledger", f"task {task_id}", "a record: it was exported", f"none ({', '.join(sorted(names))})")


def _never_stored(spans: Sequence[ExportedSpan], logs: Sequence[ExportedLog]) -> bool:
    """Whether the telemetry says only that the task was refused because its commit failed."""
    refused = {"taskflow.task.rejected"}
    return {log.event_name for log in logs} <= refused and all(s.operation == "send" and s.error for s in spans)
