"""One event as one line, for files and terminals: text from tasks is escaped, so it cannot forge a line."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any, Literal, assert_never, get_args

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.events import LifecycleEvent, LogEvent
from taskflow_otel.model.plain import iso, text_of
from taskflow_otel.runtime.terminal import UNSAFE, escape

Format = Literal["text", "json"]
FORMATS: tuple[str, ...] = get_args(Format)


def check_format(value: str) -> None:
    """Raise `ConfigurationError` for a format that does not exist."""
    if value not in FORMATS:
        raise ConfigurationError(f"format must be one of {', '.join(FORMATS)}, not {value!r}")


def line(event: LifecycleEvent | LogEvent, form: Format) -> str:
    """The line of an event, without the line end."""
    match form:
        case "json":
            return _json_line(event)
        case "text":
            return _text_line(event)
        case _:
            assert_never(form)


def _text_line(event: LifecycleEvent | LogEvent) -> str:
    moment = event.timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    said = event.message if isinstance(event, LogEvent) else f"-- {event.status.upper()}"
    return f"[{escape(event.task_id)}] [{escape(event.func_name)}] {moment} {escape(said)}"


def _json_line(event: LifecycleEvent | LogEvent) -> str:
    fields: dict[str, Any] = {
        "timestamp": iso(event.timestamp),
        "kind": "log" if isinstance(event, LogEvent) else "lifecycle",
        "task_id": event.task_id,
        "func_name": event.func_name,
        "queue": event.queue,
        "attempt": event.attempt,
        "tags": dict(event.tags),
        "trace_id": event.trace_id,
        "span_id": event.span_id,
    }
    if isinstance(event, LogEvent):
        fields |= {"level": event.level, "message": event.message, "extra": dict(event.extra)}
    else:
        fields |= {
            "transition": event.transition,
            "status": event.status,
            "retries_used": event.retries_used,
            "duration": event.duration,
            "reason": event.reason,
            "error": event.error,
            "error_type": event.error_type,
            "stacktrace": event.stacktrace,
            "executor": event.executor,
            "instance": event.instance,
        }
    try:
        text = json.dumps(fields, ensure_ascii=False, default=text_of, skipkeys=True)
    except (ValueError, RecursionError):
        # Only `extra` can be impossible in JSON: a structure that contains itself.
        text = json.dumps(fields | {"extra": text_of(fields.get("extra"))}, ensure_ascii=False)
    # JSON escapes only what is below 0x20; inside its strings the other characters may be escaped the same way.
    return text if text.isprintable() else text.translate(_JSON_ESCAPES)


_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in UNSAFE if code >= 0x7F}
