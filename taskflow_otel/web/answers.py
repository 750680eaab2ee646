"""The answers of the API, made from records and figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.board import Said
from taskflow_otel.model.cipher import is_encrypted
from taskflow_otel.model.failure import chain_of
from taskflow_otel.model.payload import arguments_by_name, readable_arguments
from taskflow_otel.model.plain import plain_value
from taskflow_otel.model.query import Instance, Loss, TaskCounts
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.schedule import ScheduledRun, ScheduleStatus
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.wire.causes import AttemptFailureOut, CauseOut
from taskflow_otel.wire.figures import StatsOut
from taskflow_otel.wire.fleet import InstanceOut, ScheduleOut
from taskflow_otel.wire.tasks import LogOut, ProgressOut, TaskDetailOut, TaskOut

T = TypeVar("T")


def task_fields(record: TaskRecord, *, with_args: bool) -> dict[str, Any]:
    """The fields of a task in a list."""
    fields: dict[str, Any] = {
        "task_id": record.task_id,
        "func_name": record.func_name,
        "status": record.status,
        "created_at": record.created_at,
        "run_at": record.run_at,
        "start_time": record.start_time,
        "end_time": record.end_time,
        "duration": record.duration,
        "due_at": record.due_at,
        "attempt": record.attempt,
        "retries_used": record.retries_used,
        "error": record.error,
        "error_type": record.error_type,
        "tags": record.tags,
        "idempotency_key": record.idempotency_key,
        "source": record.source,
        "priority": record.priority,
        "executor": record.executor,
        "queue": record.queue,
        "instance": record.instance,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "progress": ProgressOut.model_validate(record.progress) if record.progress else None,
        "reason": record.reason,
        "fingerprint": record.fingerprint,
        "timeline": record.timeline,
        "retry_of": record.retry_of,
        "retried_by": record.retried_by,
        "duplicate_of": record.duplicate_of,
        "damage": record.damage,
    }
    if with_args:
        fields["args"], fields["kwargs"] = shown_arguments(record.payload)
    return fields


def task_out(record: TaskRecord, *, with_args: bool) -> TaskOut:
    """A task in a list."""
    return TaskOut(**task_fields(record, with_args=with_args))


def task_detail(record: TaskRecord, logs: list[LogEntry], *, with_args: bool) -> TaskDetailOut:
    """A task with its log, error and timeline."""
    return TaskDetailOut(
        **task_fields(record, with_args=with_args),
        stacktrace=record.stacktrace,
        logs=[LogOut.model_validate(entry) for entry in logs],
        cancel_requested=record.cancel_requested,
        failures=[AttemptFailureOut.model_validate(one) for one in record.failures],
        causes=causes_out(record.stacktrace),
        logs_dropped=record.logs_dropped,
        arguments=arguments_text(record.payload) if with_args else None,
    )


def causes_out(stacktrace: str | None) -> list[CauseOut]:
    """The exceptions of a stack trace."""
    return [CauseOut.model_validate(cause) for cause in chain_of(stacktrace)]


def _readable(payload: str | None, read: Callable[[str], T]) -> T | None:
    if payload is None or is_encrypted(payload):
        return None
    try:
        return read(payload)
    except (TaskArgumentError, ValueError, TypeError, KeyError, LookupError, AttributeError, RecursionError):
        # One damaged row must not make its page fail; a run of the task reports the error.
        return None


def arguments_text(payload: str | None) -> str | None:
    """The stored arguments by the names of their parameters, as text for people, with numbers that JSON cannot hold.

    `None` as in `shown_arguments`.
    """
    found = _readable(payload, arguments_by_name)
    if found is None:
        return None
    # The beginning of a long value, as in `shown_arguments`; marked numbers pass as texts.
    return _MARKED.sub(r"\1", json.dumps(plain_value(_marked(found)), indent=2, ensure_ascii=False))


_MARK = "\ue000"
_MARKED = re.compile(f'"{_MARK}(-?(?:[0-9]+|Infinity)|NaN){_MARK}"')
_EXACT = 2**53
_MOST_BITS = 13_000
"""Python writes no integer of more than 4,300 digits."""


def _marked(value: Any) -> Any:
    """The value, with a marked text for each number that JSON or its readers cannot hold."""
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item) for item in value]
    if isinstance(value, str):
        # What people write must not pass for a number.
        return value.replace(_MARK, "\\ue000")
    if isinstance(value, float) and not math.isfinite(value):
        return f"{_MARK}{plain_value(value)}{_MARK}"
    if isinstance(value, int) and abs(value) > _EXACT and value.bit_length() < _MOST_BITS:
        return f"{_MARK}{value}{_MARK}"
    return value


def shown_arguments(payload: str | None) -> tuple[list[Any] | None, dict[str, Any] | None]:
    """The stored arguments as JSON; `(None, None)` if they are not stored or are ciphertext."""
    found = _readable(payload, partial(readable_arguments, numbers=True))
    if found is None:
        return None, None
    args, kwargs = found
    # Arguments may have no JSON form, and may be long: the page shows their beginning.
    shown = plain_value([args, kwargs])
    return shown[0], shown[1]


def stats_out(counts: TaskCounts) -> StatsOut:
    """The aggregate of the counts."""
    by_status = {status.value: counts.by_status.get(status, 0) for status in TaskStatus}
    judged = by_status[TaskStatus.SUCCESS] + by_status[TaskStatus.FAILED]
    return StatsOut(
        total=counts.total,
        **by_status,
        success_rate=by_status[TaskStatus.SUCCESS] / judged if judged else None,
        avg_duration_seconds=counts.duration_sum / counts.duration_count if counts.duration_count else None,
        exact=counts.exact,
    )


def instance_out(instance: Instance, answering: str, loss: Loss, said: Said | None = None) -> InstanceOut:
    """One instance; `answering` is the id of the instance that answers, `loss` is what it left if it has died, and
    `said` what it says of itself while it lives."""
    return InstanceOut(
        instance_id=instance.instance_id,
        host=instance.host,
        pid=instance.pid,
        state=instance.state,
        started_at=instance.started_at,
        heartbeat_at=instance.heartbeat_at,
        lease_seconds=instance.lease_seconds,
        answering=instance.instance_id == answering,
        kind=None if said is None else said.kind,
        release=None if said is None else said.release,
        interrupted=loss.interrupted,
        interrupted_number=loss.interrupted_number,
        moved=loss.moved,
    )


def schedule_out(status: ScheduleStatus) -> ScheduleOut:
    """One recurring schedule."""
    return ScheduleOut(
        name=status.name,
        kind="recurring",
        func_name=status.func_name,
        rule=status.rule,
        timezone=status.timezone,
        next_run=status.next_run,
        last_run=status.last_run,
        last_task_id=status.last_task_id,
        paused=status.paused,
        catch_up=status.catch_up,
        overlap=status.overlap,
        missed=status.missed,
        errors=status.errors,
        last_error=status.last_error,
        paused_by=status.paused_by,
        paused_since=status.paused_since,
        paused_reason=status.paused_reason,
    )


def planned_out(run: ScheduledRun) -> ScheduleOut:
    """One planned run, without its arguments."""
    return ScheduleOut(
        name=run.run_key,
        kind="once",
        func_name=run.func_name,
        rule="once",
        timezone="UTC",
        next_run=run.run_at,
        last_run=None,
        last_task_id=None,
        paused=False,
        catch_up=None,
        overlap=None,
        missed=0,
        errors=0,
        last_error=None,
    )
