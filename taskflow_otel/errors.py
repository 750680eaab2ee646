"""All errors of the library: one base, and each message says what to do.

An error also subclasses the matching standard exception, so that code which does not know this library still catches
what it expects (`TaskNotFoundError` is a `LookupError`).
"""

from __future__ import annotations

from collections.abc import Iterable


class TaskflowError(Exception):
    """Base of every error that taskflow-otel raises."""


class ConfigurationError(TaskflowError, ValueError):
    """A setting is wrong: raised by the call that received it."""


class MissingExtraError(TaskflowError, ImportError):
    """The optional dependency of a feature is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency. Install it: pip install 'taskflow-otel[{extra}]'")
        self.extra = extra


class DuplicateTaskNameError(ConfigurationError):
    """Two task functions were registered under one name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(
            f"the task name {name!r} is taken by {first}; {second} cannot use it too. "
            "Give one of them its own name: @task_manager.task(name=...)"
        )


class UnknownQueueError(ConfigurationError, LookupError):
    """A task names a queue that the manager does not have."""

    def __init__(self, queue: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known))
        super().__init__(
            f"there is no queue {queue!r} (known: {names}). "
            f"Declare it: TaskManager(queues={{{queue!r}: QueueConfig(concurrency=...)}})"
        )


class UnknownTaskError(TaskflowError, LookupError):
    """A stored task names a function that this process has not registered."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no task named {name!r} is registered in this process. "
            "Import the module that declares it before the manager starts."
        )


class UnknownScheduleError(TaskflowError, LookupError):
    """This process has no schedule of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no schedule named {name!r} in this process; "
            "a schedule has the name of its function unless @task_manager.schedule(name=...) gives another"
        )


class TaskArgumentError(TaskflowError, TypeError, ValueError):
    """An argument cannot be stored and read back unchanged."""


class PersistenceError(TaskflowError, ValueError):
    """A task that should be persisted cannot be."""


class QueueFullError(TaskflowError, RuntimeError):
    """The queue holds as many waiting tasks as its `max_size` allows."""

    def __init__(self, queue: str, max_size: int) -> None:
        super().__init__(
            f"the queue {queue!r} is full ({max_size} tasks wait). Answer 503 and let the client try again later, "
            f"or raise max_size / concurrency of {queue!r}."
        )
        self.queue = queue
        self.max_size = max_size


class TaskNotFoundError(TaskflowError, LookupError):
    """No task has this id (or its history has been deleted)."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"there is no task with the id {task_id!r}; look for it in the list: retention may have deleted its history"
        )
        self.task_id = task_id


class TaskStateError(TaskflowError):
    """The current state of the task does not allow this."""


class AlreadyRetriedError(TaskStateError):
    """A retry of this task exists; `retried_by` is its id."""

    def __init__(self, task_id: str, retried_by: str, *, ended: bool = False) -> None:
        is_being, so = ("was", "; retry that one") if ended else ("is being", "")
        super().__init__(f"task {task_id} {is_being} retried already, by {retried_by}{so}")
        self.retried_by = retried_by


class OperationNotFoundError(TaskflowError, LookupError):
    """No bulk operation has this id (or it has been deleted by retention)."""

    def __init__(self, operation_id: str) -> None:
        super().__init__(
            f"there is no bulk operation with the id {operation_id!r}; look for it in the list: "
            "retention may have deleted it"
        )


class KeyReusedError(TaskflowError, ValueError):
    """The idempotency key of a request belongs to another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key belongs to another request; use a new key for each new request")


class IllegalTransitionError(TaskflowError, RuntimeError):
    """A transition outside the table of `taskflow_otel.model.status`: a bug of the library, never a user's mistake."""


class TaskTimeoutError(TaskflowError, TimeoutError):
    """One attempt took longer than its `timeout`."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"the attempt of {name!r} was ended after its timeout of {seconds:g} s")


class TaskProcessError(TaskflowError, RuntimeError):
    """The process that ran an attempt ended before the attempt: it exited, crashed or was killed.

    `exit_code`: that of the process; the negative number of the signal that killed it; or `None` if the process could
    not be started.
    """

    def __init__(self, name: str, exit_code: int | None, how: str) -> None:
        super().__init__(f"the process that ran {name!r} {how}")
        self.exit_code = exit_code


class TaskCancelledError(TaskflowError):
    """Raised by `context.raise_if_cancelled()` inside a thread or process task after a cancel request."""


class NotStartedError(TaskflowError, RuntimeError):
    """The manager is not running: the application's lifespan has not started, or has ended."""

    def __init__(self, state: str = "not started") -> None:
        super().__init__(
            f"the TaskManager is {state}. Mount it with TaskAdmin(app, task_manager) or task_manager.init_app(app) and "
            "run the app's lifespan (in tests: `with TestClient(app) as client:`), "
            "or call `await task_manager.startup()` yourself."
        )


class BackendError(TaskflowError):
    """The backend refused or failed.

    `transient`: trying again can help. `divisible`: some of the changes may succeed without the others; by default
    this is so for an error that is not transient, because then one of the changes is the cause. `reason`: why a change
    is refused for good, in words that the task's record may show; the message may name the database.
    """

    def __init__(
        self, message: str, *, transient: bool = True, divisible: bool | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.transient = transient
        self.divisible: bool = not transient if divisible is None else divisible

    @property
    def http_answer(self) -> tuple[int, dict[str, str]]:
        """Status and headers of an HTTP answer: try again later, or, if that cannot help, send something else."""
        return (503, {"Retry-After": "1"}) if self.transient else (422, {})


class BackendUnavailableError(BackendError, ConnectionError):
    """The backend could not be reached, or did not answer in time; trying again can help."""


class DeclaredDeadError(BackendUnavailableError):
    """A change names an instance that was declared dead: the backend has applied nothing of its batch."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(
            f"instance {instance_id} was declared dead, so nothing more can be written under its id; try again"
        )
        self.instance_id = instance_id


class SchemaVersionError(BackendError):
    """The stored schema is newer than this version of the library."""

    def __init__(self, where: str, found: int, known: int) -> None:
        super().__init__(
            f"{where} has schema version {found}, this taskflow-otel knows up to {known}. "
            "Upgrade taskflow-otel, or point this process at another database.",
            transient=False,
        )


class StaleTokenError(BackendError):
    """The ledger refused a write of this instance: another instance has taken the task over, or it was `deleted`."""

    def __init__(self, task_id: str, *, deleted: bool = False) -> None:
        what = "deleted from the ledger before it had finished" if deleted else "taken over by another instance"
        super().__init__(f"task {task_id} was {what}; the outcome of this attempt was refused", transient=False)
        self.task_id = task_id
        self.deleted = deleted
