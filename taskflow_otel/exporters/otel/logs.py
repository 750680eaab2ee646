"""OpenTelemetry log records: one for each transition, one for each entry written with `task_log`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from opentelemetry import _logs
from opentelemetry._logs import Logger, LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import get_current

from taskflow_otel.bus import Exporter
from taskflow_otel.exporters import keys, signals
from taskflow_otel.exporters.otel import spans
from taskflow_otel.exporters.otel.providers import ProviderSlot
from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.plain import text_of
from taskflow_otel.model.status import Transition
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.model.vocabulary import AuditOutcome, LogLevel
from taskflow_otel.version import __version__

_SEVERITY = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARN": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
    "FATAL": SeverityNumber.FATAL,
}
_LEVELS: dict[str, str] = {
    LogLevel.DEBUG.value: "DEBUG",
    LogLevel.INFO.value: "INFO",
    LogLevel.WARNING.value: "WARN",
    LogLevel.ERROR.value: "ERROR",
    LogLevel.CRITICAL.value: "FATAL",
}


class _Kind(NamedTuple):
    """What the records of one transition have in common."""

    event_name: str
    severity: SeverityNumber
    severity_text: str
    words: str
    exception: bool


_KINDS = {
    transition: _Kind(
        spec.event_name, _SEVERITY[spec.severity], spec.severity, transition.value.replace("_", " "), spec.exception
    )
    for transition, spec in signals.LOGS.items()
}
_AUDIT_ATTRIBUTES = {
    keys.AUDIT_ACTION: "action",
    keys.AUDIT_OUTCOME: "outcome",
    keys.AUDIT_TIMES: "times",
    keys.HTTP_ROUTE: "route",
    keys.HTTP_STATUS: "status",
    keys.USER_NAME: "actor",
    keys.AUDIT_METHOD: "method",
    keys.CLIENT_ADDRESS: "client",
    keys.AUDIT_TARGET: "target",
    keys.AUDIT_TASK: "task_id",
    keys.AUDIT_OPERATION: "operation_id",
    keys.AUDIT_REASON: "reason",
    keys.AUDIT_DETAIL: "detail",
}
"""The attributes of an audit record, and the fields of the entry that they show."""
_NEVER_ASKED = datetime.min.replace(tzinfo=UTC), True
_ASK_INTERVAL = timedelta(seconds=1)
"""How long the SDK's answer whether records are wanted is reused: asking takes a third of a record's time."""


class LogsExporter(Exporter):
    """Emits the log records, each in the context of the span that it belongs to.

    `logger_provider=None` means the global one, which may be set later. The exception of a failed attempt is in the
    attributes of one log record. The tracing exporter leaves the contexts of its spans in `contexts`. The exporter asks
    at most once a second whether the records of a transition are wanted.
    """

    name = "logs"

    def __init__(
        self, logger_provider: LoggerProvider | None = None, *, contexts: spans.SpanContexts | None = None
    ) -> None:
        self._contexts = contexts or spans.SpanContexts()
        self._wanted: dict[Transition, tuple[datetime, bool]] = {}
        """Whether the records of a transition are wanted, and when to ask again."""
        self._slot = ProviderSlot(logger_provider, _logs.get_logger_provider)
        self._logger: Logger | None = None

    def idle_until(self, now: datetime) -> datetime | None:
        """The time of the next look for a provider; `None` once there is one."""
        return None if self._logger is not None or self._active(now) is not None else self._slot.look_again

    def _active(self, now: datetime) -> Logger | None:
        """The logger, once an effective provider is set."""
        if self._logger is None:
            provider = self._slot.look(now)
            if provider is not None:
                self._logger = provider.get_logger(signals.SCOPE, __version__, schema_url=signals.SCHEMA_URL)
        return self._logger

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Emit the record of the transition."""
        logger = self._logger
        if logger is None and event.timestamp >= self._slot.look_again:
            logger = self._active(event.timestamp)
        if logger is None:
            return
        kind = _KINDS[event.transition]
        until, wanted = self._wanted.get(event.transition, _NEVER_ASKED)
        if event.timestamp >= until:
            wanted = logger.enabled(severity_number=kind.severity, event_name=kind.event_name)
            self._wanted[event.transition] = event.timestamp + _ASK_INTERVAL, wanted
        if not wanted:
            return
        attributes: dict[str, Any] = {
            keys.MESSAGING_DESTINATION_NAME: event.func_name,
            keys.MESSAGING_MESSAGE_ID: event.task_id,
            keys.QUEUE: event.queue,
            keys.INSTANCE: event.instance,
            keys.ATTEMPT: event.attempt,
        }
        if event.reason is not None:
            attributes[keys.REASON] = event.reason
        if event.duration is not None and event.ends_attempt:
            attributes[keys.DURATION] = event.duration
        if kind.exception:
            # In other transitions, the event's error belongs to an earlier attempt.
            _add_exception(attributes, event)
        what = f"{event.func_name} {kind.words}"
        # As a record object: for separate arguments, the SDK first looks for an exception.
        logger.emit(
            LogRecord(
                timestamp=spans.nanoseconds(event.timestamp),
                context=self._contexts.of(event.span),
                severity_number=kind.severity,
                severity_text=kind.severity_text,
                body=what if event.reason is None else f"{what} ({event.reason})",
                attributes=attributes,
                event_name=kind.event_name,
            )
        )

    def on_log(self, event: LogEvent) -> None:
        """Emit the record of a log entry, unless a handler of `logging` exports the line."""
        if event.exported:
            return
        logger = self._logger or self._active(event.timestamp)
        if logger is None:
            return
        text = _LEVELS.get(event.level, "INFO")
        severity = _SEVERITY[text]
        event_name = signals.TASK_LOG.event_name
        if not logger.enabled(severity_number=severity, event_name=event_name):
            return
        attributes: dict[str, Any] = {
            keys.MESSAGING_DESTINATION_NAME: event.func_name,
            keys.MESSAGING_MESSAGE_ID: event.task_id,
            keys.QUEUE: event.queue,
            keys.ATTEMPT: event.attempt,
        }
        for key, value in event.extra.items():
            attributes[keys.LOG_PREFIX + key] = _plain(value)
        logger.emit(
            timestamp=spans.nanoseconds(event.timestamp),
            context=self._contexts.of(
                SpanRef(event.trace_id or "", event.span_id or "", event.trace_flags),
            ),
            severity_number=severity,
            severity_text=text,
            body=event.message,
            attributes=attributes,
            event_name=event_name,
        )

    def on_audit(self, entry: AuditEntry) -> None:
        """Emit the record of an action, in the context of its request."""
        logger = self._logger or self._active(entry.at)
        if logger is None:
            return
        text = "INFO" if entry.outcome == AuditOutcome.DONE else "WARN"
        attributes = {
            name: value for name, of in _AUDIT_ATTRIBUTES.items() if (value := getattr(entry, of)) is not None
        }
        about = entry.task_id or entry.operation_id or entry.target
        logger.emit(
            LogRecord(
                timestamp=spans.nanoseconds(entry.at),
                context=get_current(),
                severity_number=_SEVERITY[text],
                severity_text=text,
                body=f"{entry.actor or 'anonymous'}: {entry.action}{f' {about}' if about else ''}: {entry.outcome}",
                attributes=attributes,
                event_name=signals.AUDIT.event_name,
            )
        )

    def dropped(self) -> int:
        """How many log records of this process the collector did not take: see `configure_telemetry`."""
        return self._slot.dropped()

    def flush(self, timeout: float) -> None:
        """Ask the SDK to export what it has buffered."""
        self._slot.force_flush(timeout)


def _add_exception(attributes: dict[str, Any], event: LifecycleEvent) -> None:
    if event.error_type is not None:
        attributes[keys.ERROR_TYPE] = attributes[keys.EXCEPTION_TYPE] = event.error_type
    if event.error is not None:
        attributes[keys.EXCEPTION_MESSAGE] = event.error
    if event.stacktrace is not None:
        attributes[keys.EXCEPTION_STACKTRACE] = event.stacktrace


def _plain(value: Any) -> Any:
    """A value as the OpenTelemetry data model allows it; what it does not know becomes text."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return text_of(value)
