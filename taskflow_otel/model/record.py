"""The record of a task: all data about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Struct, field, to_builtins
from msgspec.structs import replace

from taskflow_otel.model.cipher import is_encrypted
from taskflow_otel.model.failure import AttemptFailure
from taskflow_otel.model.hiding import repr_without
from taskflow_otel.model.status import KEY_HOLDING_STATUSES, TaskStatus, Transition
from taskflow_otel.model.trace import TaskTrace
from taskflow_otel.model.vocabulary import ExecutorKind, Source

DEFAULT_QUEUE = "default"
DEFAULT_PRIORITY = 5

MAX_LOG_ENTRIES = 1_000
"""Log entries kept per task; further ones are counted in `TaskRecord.logs_dropped`."""
MAX_LOG_TEXT = 4_194_304
"""Characters kept of all log entries of a task together; entries beyond this also count as dropped."""
MAX_TEXT = 32_768
"""Characters kept of an error, a stack trace or a log message; a note marks a cut."""
NEVER_DUE = datetime(2200, 1, 1, tzinfo=UTC)
"""When a task is due whose objective has no time limit: a moment that is stored like any other."""


# msgspec structs: C code makes and copies them, in a fifth of the time of a dataclass. The garbage collector does not
# visit those with `gc=False`, which cannot be part of a cycle.
class TimelineEntry(Struct, frozen=True, gc=False):
    """One transition of a task: what happened, when, in which attempt, on which instance."""

    transition: Transition
    timestamp: datetime
    attempt: int
    instance: str
    reason: str | None = None
    due_at: datetime | None = None
    """On the first line of a task with an objective: by when it must have succeeded."""


class LogEntry(Struct, frozen=True):
    """One stored line of a task's log."""

    seq: int
    timestamp: datetime
    level: str
    """One of `LogLevel`."""
    message: str
    attempt: int
    extra: dict[str, Any]

    def __str__(self) -> str:
        """The message."""
        return self.message


class Progress(Struct, frozen=True, gc=False):
    """The progress that a running task has reported."""

    done: float
    total: float | None
    message: str | None = None


class TaskRecord(Struct, gc=False):
    """All data about one task. Times are aware datetimes in UTC, durations are seconds.

    The engine is the only writer; everyone else gets a copy.
    """

    task_id: str
    func_name: str
    status: TaskStatus
    created_at: datetime
    run_at: datetime | None = None
    """The task does not start before this time: a delay, a schedule, or the wait for a retry."""
    start_time: datetime | None = None
    """When the latest attempt entered the function."""
    end_time: datetime | None = None
    duration: float | None = None
    attempt: int = 0
    """Zero-based number of the current or latest attempt."""
    retries_used: int = 0
    error: str | None = None
    error_type: str | None = None
    stacktrace: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    source: str = Source.MANUAL.value
    """One of `Source`."""
    priority: int = DEFAULT_PRIORITY
    executor: str = ExecutorKind.ASYNC.value
    """One of `ExecutorKind`."""
    queue: str = DEFAULT_QUEUE
    instance: str = ""
    """The instance that owns the task."""
    progress: Progress | None = None
    reason: str | None = None
    """Why the task is in this state, if the state alone does not say: one of `Reason`."""
    timeline: tuple[TimelineEntry, ...] = ()
    retry_of: str | None = None
    retried_by: str | None = None
    duplicate_of: str | None = None
    cancel_requested: bool = False
    logs_dropped: int = 0
    failures: tuple[AttemptFailure, ...] = ()
    """Why its attempts failed, or why it was interrupted or rejected: the newest ones, the latest last."""

    payload: str | None = None
    """The encoded arguments (`taskflow_otel.model.payload`), as ciphertext if encryption is on."""
    persisted: bool = False
    token: int = 1
    """Fencing token: each takeover increments it, and every write checks it."""
    crashes: int = 0
    """How often a process died while this task was running in it."""
    trace: TaskTrace = field(default_factory=TaskTrace)
    damage: str | None = None
    """A sentence that names the unreadable parts of the stored row; itself never stored."""
    logs: list[LogEntry] | None = None
    """The log, in what `TaskManager.get` returns; `None` where it was not read. It is stored by itself."""

    @property
    def trace_id(self) -> str | None:
        """Trace id of the latest attempt, or of the `send` span before the first one."""
        ref = self.trace.attempt or self.trace.creation
        return ref.trace_id or None

    @property
    def span_id(self) -> str | None:
        """Span id of the latest attempt, or of the `send` span before the first one."""
        ref = self.trace.attempt or self.trace.creation
        return ref.span_id or None

    @property
    def fingerprint(self) -> str | None:
        """What its latest failure has in common with others (`taskflow_otel.model.failure.fingerprint_of`).

        `None` for a task that has not failed, or that has succeeded or was cancelled since.
        """
        if not self.failures or self.status in _OVER_IT:
            return None
        return self.failures[-1].fingerprint

    @property
    def due_at(self) -> datetime | None:
        """By when it must have succeeded to count as good; `None` without an objective that has a time limit."""
        due = self.timeline[0].due_at if self.timeline else None
        return None if due == NEVER_DUE else due

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments as JSON for people, without their types; empty if they are encrypted or unknown."""
        return tuple(self._readable()[0])

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, like `args`."""
        return self._readable()[1]

    def _readable(self) -> tuple[list[Any], dict[str, Any]]:
        # The codec needs pydantic, which reading a record does not.
        from taskflow_otel.model.payload import readable_arguments

        if self.payload is None or is_encrypted(self.payload):
            return [], {}
        return readable_arguments(self.payload)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON data, without arguments: the fields of the API, times in ISO 8601 (UTC)."""
        data: dict[str, Any] = {name: getattr(self, name) for name in _SHOWN}
        data |= {"trace_id": self.trace_id, "span_id": self.span_id, "due_at": self.due_at}
        data["fingerprint"] = self.fingerprint
        plain: dict[str, Any] = to_builtins(data)
        for line in plain["timeline"]:
            del line["due_at"]
        return plain

    @property
    def active_key(self) -> str | None:
        """The idempotency key if this task holds it now, else `None`."""
        return self.idempotency_key if self.status in KEY_HOLDING_STATUSES else None

    def __repr__(self) -> str:
        """All fields, without the arguments. Tags and the key are shown: telemetry has them too."""
        return repr_without(self, "payload")

    def assign(self, instance: str) -> None:
        """Give a task that is not stored yet to another instance, with the lines of its timeline."""
        self.instance = instance
        self.timeline = tuple([replace(entry, instance=instance) for entry in self.timeline])

    def copy(self) -> TaskRecord:
        """Return a snapshot that later transitions do not change."""
        twin = replace(self)
        twin.trace = replace(self.trace)
        return twin


_OVER_IT = frozenset({TaskStatus.SUCCESS, TaskStatus.CANCELLED})
_HIDDEN = {"payload", "persisted", "token", "crashes", "trace"}
_SHOWN = [name for name in TaskRecord.__struct_fields__ if name not in _HIDDEN]
