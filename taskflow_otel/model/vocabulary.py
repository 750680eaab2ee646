"""The words that the ledger, the telemetry, the API and the page share, each with its meaning.

Code uses the members. Records, rows, JSON and labels hold plain text, because a row of a later version may hold an
unknown word. The states and transitions of a task are in `status`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from taskflow_otel.model.status import Transition


class Word(StrEnum):
    """One word of a closed set."""

    _value_: str
    meaning: str
    """One sentence, as the documentation shows it."""
    label: str
    """A few words, as the page shows it beside a task."""

    def __new__(cls, value: str, meaning: str, label: str = "") -> Self:
        """A member is written as its text, its meaning, and its label where that is not the text itself."""
        word = str.__new__(cls, value)
        word._value_ = value
        word.meaning = meaning
        word.label = label or value
        return word


class Reason(Word):
    """Why a task is in its state, if the state alone does not say."""

    RETRY_WAIT = (
        "retry_wait",
        "An attempt failed, and the next one waits for its time.",
        "waits to retry",
    )
    DELAYED = "delayed", "The task was added with a delay or a `run_at`, and waits for it."
    REQUEST_FAILED = (
        "request_failed",
        "An exception left the route or one of its dependencies, so the task never runs.",
        "its request failed",
    )
    EARLIER_FAILED = (
        "earlier_failed",
        "An earlier undecorated function of the same request failed.",
        "an earlier function of its request failed",
    )
    COMMIT_FAILED = (
        "commit_failed",
        "The task could not be stored, so it never runs.",
        "could not be stored",
    )
    ROLLED_BACK = (
        "rolled_back",
        "The transaction in which the task was added did not commit, so the task does not exist.",
        "its transaction was rolled back",
    )
    QUEUE_FULL = (
        "queue_full",
        "The queue held `max_size` tasks already.",
        "the queue was full",
    )
    DUPLICATE = (
        "duplicate",
        "Another task holds the idempotency key, or was the first of its name or the first retry.",
        "duplicate of another task",
    )
    OVERLAP = (
        "overlap",
        'An earlier run of the schedule has not ended, and its policy is `overlap="skip"`.',
        "an earlier run had not ended",
    )
    SHUTDOWN = (
        "shutdown",
        "The process stopped before the task ended.",
        "ended by shutdown",
    )
    PROCESS_DIED = (
        "process_died",
        "The process died while the task was running in it.",
        "its process died",
    )
    TAKEOVER = (
        "takeover",
        "Another instance took the task over before it had started.",
        "taken over from an instance that has ended",
    )
    CANCELLED = "cancelled", "Someone asked for the cancellation."
    TIMEOUT = (
        "timeout",
        "The attempt took longer than its `timeout`.",
        "took too long",
    )
    POISON = (
        "poison",
        "The task was running in several processes that died, and is not started again.",
        "crashed its process repeatedly",
    )


REFUSALS = (Reason.COMMIT_FAILED, Reason.ROLLED_BACK, Reason.QUEUE_FULL, Reason.DUPLICATE, Reason.OVERLAP)
"""The reasons of a task that was refused."""
PROCESS_DEATHS = frozenset({Reason.PROCESS_DIED, Reason.POISON})
"""The reasons of an attempt that ended because its process died."""
DELIBERATE_WAITS = frozenset({Reason.DELAYED, Reason.RETRY_WAIT})
"""The reasons of a task that waits for a time and not for a slot."""


class Source(Word):
    """What made a task."""

    MANUAL = "manual", "Code added it, in a request or elsewhere."
    SCHEDULED = "scheduled", "A schedule or a planned run was due."
    RETRY = "retry", "Someone retried a finished task."


class ExecutorKind(Word):
    """How a task's function is run."""

    ASYNC = "async", "It runs on the event loop of the manager."
    THREAD = "thread", "It runs in a thread."
    PROCESS = "process", "It runs in a child process, which can be ended for good."


class AttemptOutcome(Word):
    """How an attempt ended."""

    SUCCESS = "success", "The function returned."
    FAILED = "failed", "The function raised an exception, or took longer than its timeout."
    CANCELLED = "cancelled", "The attempt was stopped by a cancellation."
    INTERRUPTED = "interrupted", "The attempt ended with its process."


OUTCOMES: dict[Transition, AttemptOutcome] = {
    Transition.SUCCEEDED: AttemptOutcome.SUCCESS,
    Transition.FAILED: AttemptOutcome.FAILED,
    Transition.RETRY_SCHEDULED: AttemptOutcome.FAILED,
    Transition.CANCELLED: AttemptOutcome.CANCELLED,
    Transition.INTERRUPTED: AttemptOutcome.INTERRUPTED,
    Transition.RECOVERED: AttemptOutcome.INTERRUPTED,
}
"""The transitions that end an attempt, and how it ended then."""


class RecoveryOutcome(Word):
    """What happened to a task that was taken over from a dead process."""

    WAITING = "waiting", "It had not started, and waits again."
    RERUN = "rerun", "It was running, and waits to run again."
    INTERRUPTED = "interrupted", "It was running, and ended with its process."
    POISON = "poison", "It was running in several processes that died, and is not started again."


class ObjectiveResult(Word):
    """How a task counts for the objective of its type."""

    GOOD = "good", "It succeeded, in time if the objective has a time limit."
    BAD = "bad", "It failed, was lost with its process, or did not end in time."


class OperationOutcome(Word):
    """How one operation of a backend ended."""

    OK = "ok", "The backend answered."
    ERROR = "error", "The backend refused or did not answer."


class QueueState(Word):
    """What a task in a queue waits for."""

    READY = "ready", "It waits for a slot."
    DELAYED = "delayed", "It waits for its moment."


class SlotState(Word):
    """Whether a slot of an executor is in use."""

    USED = "used", "An attempt uses it."
    FREE = "free", "No attempt uses it."


class InstanceState(Word):
    """The state of an instance in the ledger."""

    ALIVE = "alive", "It writes heartbeats."
    DEAD = "dead", "Another instance declared it dead."
    STOPPED = "stopped", "It has shut down properly."


class InstanceKind(Word):
    """What a process was started as."""

    WEB = "web", "It serves the application."
    WORKER = "worker", "It was started by `taskflow-otel worker`, and serves probes and metrics only."
    CELERY = "celery", "It is a process of a Celery worker, and runs tasks when a message says so."


class DoorbellResult(Word):
    """What happened to a doorbell, the message that tells Celery about a task in the pool."""

    RUNG = "rung", "The broker took the message."
    FAILED = "failed", "The broker did not take the message; a sweep rings again."
    UNCLAIMED = "unclaimed", "Nobody has claimed the task since, and a sweep rang again."


class AuditOutcome(Word):
    """How an action through the administration ended."""

    DONE = "done", "It was done."
    REFUSED = "refused", "It was refused: access, input, or the state of what it was about."
    FAILED = "failed", "It failed: the manager or its backend was not available."


class OperationKind(Word):
    """What a bulk operation does to its tasks."""

    RETRY = "retry", "It makes a new task from each."
    CANCEL = "cancel", "It cancels each."
    DELETE = "delete", "It deletes each finished one from the history."


class OperationStatus(Word):
    """How far a bulk operation is."""

    RUNNING = "running", "It is worked off, by the instance in `owner` or by the one that takes it over."
    DONE = "done", "Each task has a result."
    FAILED = "failed", "It ended before each task had a result; `error` says why."


class ItemOutcome(Word):
    """The result of a bulk operation for one task."""

    DONE = "done", "It was done."
    REFUSED = "refused", "The state of the task did not allow it, or there is no such task."
    FAILED = "failed", "An error occurred."


class Trending(Word):
    """Why a group of failures asks for attention."""

    NEW = "new", "Its first task that is stored ended within the last hour."
    RISING = (
        "rising",
        "At least five of its tasks ended within the last hour, more than twice as many as in an average hour before.",
    )


class FailureOrder(Word):
    """The order of the groups of failures."""

    LAST = "last", "The one with the latest failure first."
    OPEN = "open", "The one with the most tasks that were not retried first."
    COUNT = "count", "The one with the most tasks first."
    RECENT = "recent", "The one with the most failures within the last hour first."
    APPEARED = "appeared", "The one that appeared last first."


class BarKind(Word):
    """What a bar in the trace of a task is: a wait, an attempt, or a span of this kind."""

    WAIT = "wait", "The task waited for its turn, its time or its next attempt."
    ATTEMPT = "attempt", "An attempt of the task: its function ran."
    PRODUCER = "producer", "Something was handed over, such as a task to its queue."
    CONSUMER = "consumer", "Something that was handed over was worked on."
    SERVER = "server", "A request was answered."
    CLIENT = "client", "Another service or a database was asked."
    INTERNAL = "internal", "A part of the work in this process."


class EngineState(Word):
    """The state of the engine of this process."""

    NEW = "new", "It has not been started."
    RUNNING = "running", "It takes tasks and runs them."
    DRAINING = "draining", "It takes no new tasks, and lets the running ones end."
    STOPPED = "stopped", "It has been stopped."
    ABANDONED = "abandoned", "Its event loop was closed without a stop."


class LogLevel(Word):
    """The severity of a task's log entry."""

    DEBUG = "debug", "A detail that helps to find an error."
    INFO = "info", "Something happened as expected."
    WARNING = "warning", "Something unexpected happened, and the task can continue."
    ERROR = "error", "A part of the task failed."
    CRITICAL = "critical", "The program may be unable to continue."


LOG_LEVELS: dict[str, int] = {
    LogLevel.DEBUG.value: 10,
    LogLevel.INFO.value: 20,
    LogLevel.WARNING.value: 30,
    LogLevel.ERROR.value: 40,
    LogLevel.CRITICAL.value: 50,
}
"""The levels of `task_log`, by their numbers in the standard module `logging`."""
