"""The page `docs/telemetry.md`, generated: `python -m taskflow_otel.exporters.signals_doc > docs/telemetry.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from taskflow_otel.exporters import keys, messaging, signals
from taskflow_otel.exporters.otel.kept_attributes import KEPT
from taskflow_otel.exporters.otel.span_keeper import MOST_AT_ONCE, SpanKeeper
from taskflow_otel.exporters.otel.tracing import DEEPEST, SOON
from taskflow_otel.exporters.specs import MetricSpec, SpanSpec
from taskflow_otel.model.spans import MAX_SPANS
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import (
    AttemptOutcome,
    AuditOutcome,
    BarKind,
    DoorbellResult,
    ExecutorKind,
    InstanceKind,
    InstanceState,
    LogLevel,
    OperationOutcome,
    QueueState,
    Reason,
    RecoveryOutcome,
    SlotState,
    Source,
    Word,
)

_INTRODUCTION = f"""\
# Telemetry

Every span, log event and metric of taskflow-otel. This page is generated from `taskflow_otel/exporters/signals.py`:
change that file.

Spans and log records carry the instrumentation scope `{signals.SCOPE}` and the schema URL <{signals.SCHEMA_URL}>.
No signal contains arguments of tasks.
"""

_LINKS = f"""\
Every `process` span links to the `send` span of its task, and to the span of the previous attempt
(`{keys.LINK}`=`previous_attempt`). With `Telemetry(propagation="auto")` it is also a child of the `send` span if the
same process starts it within {SOON:g} seconds after code added the task. Attempts that are delayed, scheduled,
recovered or retried by hand start a new trace, and their automatic retries are children of the attempt that started it.
With `"parent"` the span is always a child of the `send` span, with `"link"` never.

The `send` span of a task that was retried by hand links to the latest attempt of the original (`retry_of`). That of
a run planned with `schedule_once` links to the span of that call (`scheduled_by`), such as the request's. A task that
a task adds is in the trace of the latter, up to {DEEPEST} tasks deep. The next one starts a new trace, and its `send`
span links to the attempt that added it (`added_by`). So no task that adds itself makes an endless trace.

An attempt whose process dies leaves a span too. The instance that takes the task over emits it, from the attempt's
start to the last heartbeat, with status ERROR and `{keys.INTERRUPTED}`=`true`. It has the ids of the lost span, if they
were stored and the SDK allows it (else it links to the lost one, `dead_attempt`). A process that was only thought dead
exports no span of that attempt. Data that only the dead process had is missing: the span has no
`{keys.QUEUE_WAIT}`, and the log record of a task that failed as poison has no stack trace.

The exception of a failed attempt is in the attributes of its log record. With
`OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=logs/dup` it is also an event of the span.
"""

_KEPT = f"""\
### The trace on the page of a task

The page of a task shows its trace without a tracing backend (`GET /tasks/{{task_id}}/trace`). Its waits and
attempts are known from the ledger. With the SDK's tracer provider, the spans inside each attempt are kept too:
those of your own code and of instrumented libraries, in each executor. Up to {MAX_SPANS} of an attempt are kept,
those that failed and the longest first, and with those of the first attempt the request that added the task. They
are written in the transaction of the outcome, under its fencing token, as ciphertext where arguments are
(`encrypt_args_key`), and deleted with the task. Spans that are not sampled are not there to be kept, nor are those
of a process that died.

`Telemetry(keep_spans=False)` keeps none. What is not kept, because an attempt has more spans or the attempts that
run at once have more than {MOST_AT_ONCE:,}, is counted in `{signals.EVENTS_DROPPED.name}`
(`exporter="{SpanKeeper.name}"`).

Of their attributes, these are kept; addresses lose user, password, query and fragment.
`Telemetry(span_attributes=...)` adds others, such as `db.query.text`: the text of a statement may hold personal
data.

{", ".join(f"`{name}`" for name in sorted(KEPT))}
"""

_METRICS = f"""\
Prometheus and OpenMetrics text at `/tasks/metrics`. In OpenMetrics, histograms carry exemplars (`trace_id`, `span_id`)
of sampled spans. Label values beyond `Telemetry(max_label_values=)` count as `_other`. A page shows the counts of all
workers behind its address, and one of several targets also shows what no other one shows, with the label
`{signals.ELSEWHERE}`: see [one target or many](metrics.md).
"""

_OTEL_METRICS = """\
## OpenTelemetry metrics

With a meter provider (`Telemetry(meter_provider=)`, or a global one, whenever it is set) the same
metrics go there too: `taskflow_tasks_enqueued_total` as `taskflow.tasks_enqueued`, and so on, with the labels above as
attributes. In addition, there are the metrics that the semantic conventions require of a messaging library:
"""

_WORDS = """\
## Words

What attributes, labels, the API and the ledger share. To change a word, change `taskflow_otel/model/vocabulary.py`.
"""

_VOCABULARY: tuple[tuple[str, str, type[Word]], ...] = (
    ("Reasons", f"`{keys.REASON}`, `reason` in the API: why a task is in its state.", Reason),
    ("Sources", f"`{keys.SOURCE}`, label and field `source`: what made a task.", Source),
    ("Executors", f"`{keys.EXECUTOR}`, label and field `executor`: how a function is run.", ExecutorKind),
    ("Outcomes of attempts", "The label `outcome`: how an attempt ended.", AttemptOutcome),
    (
        "Outcomes of recoveries",
        f"The label `reason` of `{signals.TASKS_RECOVERED.name}`: what happened to a task that was taken over.",
        RecoveryOutcome,
    ),
    (
        "Outcomes of operations",
        f"The label `outcome` of `{signals.BACKEND_OPERATION.name}`: how a backend answered.",
        OperationOutcome,
    ),
    (
        "Outcomes of actions",
        f"`{keys.AUDIT_OUTCOME}`, `outcome` in `GET /audit`: how an action through the administration ended.",
        AuditOutcome,
    ),
    ("States of queued tasks", f"The label `state` of `{signals.QUEUE_DEPTH.name}`.", QueueState),
    ("States of slots", f"The label `state` of `{signals.EXECUTOR_SLOTS.name}`.", SlotState),
    ("States of instances", "The field `state` of an instance.", InstanceState),
    ("Kinds of instances", "The field `kind` of an instance.", InstanceKind),
    ("Kinds of bars", "The field `kind` of a bar in the trace of a task.", BarKind),
    ("Results of doorbells", f"The label `result` of `{signals.DOORBELLS.name}`.", DoorbellResult),
    ("Levels", "The level of a log entry.", LogLevel),
)


def render() -> str:
    """The whole page, as Markdown."""
    parts = [
        _INTRODUCTION,
        "## Spans\n",
        *(_span(spec) for spec in signals.SPANS),
        _LINKS,
        _KEPT,
        "## Log events\n",
        _log_table(),
        "## Attributes\n",
        _table(("attribute", "type", "meaning"), ((_code(a.name), a.type, a.meaning) for a in keys.ATTRIBUTES)),
        "## Metrics\n",
        _METRICS,
        _metric_table(signals.METRICS),
        "### Buckets\n",
        _table(
            ("histogram", "upper bounds in seconds"),
            ((_code(m.name), " ".join(f"{bound:g}" for bound in m.buckets)) for m in signals.METRICS if m.buckets),
        ),
        "`Telemetry(buckets={name: bounds})` replaces them.\n",
        _OTEL_METRICS,
        _metric_table(messaging.MESSAGING_METRICS),
        _WORDS,
        *(_words(*words) for words in _VOCABULARY),
    ]
    return "\n".join(parts)


def _span(spec: SpanSpec) -> str:
    rows = (
        ("kind", spec.kind),
        ("starts", spec.starts),
        ("is ended by", _transitions(spec.ended_by)),
        ("attributes at start", f"{_codes(spec.at_start)}, {_code(keys.TAG_PREFIX + '*')}"),
        ("attributes at end", _codes(spec.at_end)),
    )
    return f"### `{spec.name('{task}')}`\n\n{_table(('', ''), rows)}"


def _log_table() -> str:
    rows = [
        (
            _code(spec.event_name),
            spec.severity,
            spec.meaning + ("; with the exception" if spec.exception else ""),
        )
        for spec in (*signals.LOGS.values(), signals.TASK_LOG, signals.AUDIT)
    ]
    lifecycle = (
        f"Attributes of the lifecycle events: {_codes(signals.LIFECYCLE_LOG_ATTRIBUTES)}; "
        f"with the exception: {_codes(signals.EXCEPTION_LOG_ATTRIBUTES)}.\n"
    )
    entries = (
        f"Attributes of `{signals.TASK_LOG.event_name}`: {_codes(signals.TASK_LOG_ATTRIBUTES)}, "
        f"{_code(keys.LOG_PREFIX + '*')}.\n\n"
        "With `capture_logs`, a record of `logging` that a handler of OpenTelemetry exports too (`LoggingHandler` of "
        "the SDK or of `opentelemetry-instrumentation-logging`) is a line of the task, and exported once, by that "
        "handler. Records of the SDK itself are never lines of a task.\n"
    )
    audit = f"Attributes of `{signals.AUDIT.event_name}`, if known: {_codes(signals.AUDIT_LOG_ATTRIBUTES)}.\n"
    return "\n".join((_table(("event", "severity", "meaning"), rows), lifecycle, entries, audit))


def _metric_table(specs: Sequence[MetricSpec]) -> str:
    return _table(
        ("metric", "type", "unit", "labels", "meaning", "changed by"),
        (
            (_code(m.name), m.type, m.unit or "–", _codes(m.labels) or "–", m.help, _transitions(m.on) or "–")
            for m in specs
        ),
    )


def _words(title: str, where: str, kind: type[Word]) -> str:
    rows = ((_code(word), word.meaning) for word in kind)
    return f"### {title}\n\n{where}\n\n{_table(('word', 'meaning'), rows)}"


def _transitions(transitions: frozenset[Transition]) -> str:
    return ", ".join(transition for transition in Transition if transition in transitions)


def _code(text: str) -> str:
    return f"`{text}`"


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(_code(text) for text in texts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(render())
