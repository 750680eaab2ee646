"""What the web room needs from the rooms below it, as small protocols: the engine, the metrics, the live stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any, Protocol

from taskflow_otel.backends.failures import Occurrences
from taskflow_otel.backends.pool import PoolDepth
from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery
from taskflow_otel.model.board import Pause, ReleaseMark, Said
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.model.objective import SLO
from taskflow_otel.model.operation import Operation, OperationItem, OperationQuery, Order
from taskflow_otel.model.payload import Given
from taskflow_otel.model.query import FailureGroups, Instance, Loss, TaskCounts, TaskPage, TaskQuery, Trend
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.schedule import ScheduledRun, ScheduleStatus
from taskflow_otel.model.spans import KeptTrace
from taskflow_otel.model.task_options import TaskConfig
from taskflow_otel.model.vocabulary import EngineState, OperationKind


class QueueFigures(Protocol):
    """The current state of one queue in this process; ages are seconds."""

    @property
    def name(self) -> str: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def max_size(self) -> int | None: ...
    @property
    def running(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def paused(self) -> bool: ...
    @property
    def shared(self) -> bool: ...
    @property
    def oldest_ready_age(self) -> float | None: ...


class ScheduleBook(Protocol):
    """The schedules, for the API."""

    def statuses(self) -> list[ScheduleStatus]:
        """The recurring schedules, by name."""

    async def planned(self) -> list[ScheduledRun]:
        """The planned runs that have not begun, the next first."""

    async def run(self, name: str) -> TaskRecord:
        """Make one run now; raises `UnknownScheduleError` and `QueueFullError`."""

    async def pause(self, name: str, by: str | None = None, reason: str | None = None) -> ScheduleStatus:
        """Stop firing, on all instances; raises `UnknownScheduleError`. `by` and `reason`: who wants it, and why."""

    async def resume(self, name: str) -> ScheduleStatus:
        """Fire again; raises `UnknownScheduleError`."""


class TaskLookup(Protocol):
    """Read access to tasks. Every returned record is a copy."""

    async def get(self, task_id: str) -> TaskRecord:
        """One task; raises `TaskNotFoundError`."""

    async def get_all(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """The tasks among these that exist, by id."""

    async def logs(self, task_id: str) -> list[LogEntry]: ...
    async def spans(self, task_id: str) -> KeptTrace:
        """What is kept of the spans of one task."""

    async def page(self, query: TaskQuery) -> TaskPage: ...
    async def counts(self, query: TaskQuery) -> TaskCounts: ...
    async def figures(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure] | None:
        """What finished on all instances in these slots; `None` if the backend does not keep figures."""

    async def counted_since(self, span: Span) -> int | None:
        """The oldest slot with figures; `None` without any, and if the backend does not keep them."""

    async def failure_groups(self, query: TaskQuery, trend: Trend) -> FailureGroups | None:
        """The groups of failures of all instances; `None` if the backend does not count them."""

    async def occurrences(
        self, fingerprints: Collection[str], first: int, last: int, seconds: int
    ) -> Occurrences | None:
        """When the tasks of these groups ended; `None` if the backend does not count them."""

    async def in_pool(self, queues: Collection[str]) -> Mapping[str, PoolDepth]:
        """What waits in the pool, by queue: for these queues, and for any other that has tasks there."""

    async def instances(self) -> list[Instance]: ...
    async def losses(self) -> dict[str, Loss]:
        """What the dead instances left behind, by their ids."""


class TaskControl(Protocol):
    """Actions on tasks."""

    async def cancel(self, task_id: str) -> TaskRecord:
        """Ask for a cancellation; raises `TaskNotFoundError` or `TaskStateError`."""


class TaskRetries(Protocol):
    """Makes new tasks from finished ones."""

    async def retry(
        self, task_id: str, *, rerun: bool = False, arguments: Mapping[str, Any] | None = None
    ) -> TaskRecord:
        """The new task; raises `TaskNotFoundError`, `TaskStateError`, `UnknownTaskError` or `TaskArgumentError`."""

    async def parameters(self, task_id: str) -> list[Given]:
        """The parameters of its function with the stored arguments; raises what `retry` raises."""


class StackBook(Protocol):
    """Where running tasks are."""

    async def ask(self, task_id: str, by: str | None = None) -> None:
        """Have the stack of a running task written into its log; raises `TaskNotFoundError` or `TaskStateError`."""


class QueueBook(Protocol):
    """The queues, for the API. Each change raises `UnknownQueueError`."""

    def stats(self) -> Mapping[str, QueueFigures]: ...
    def pauses(self) -> Mapping[str, Pause]:
        """Who paused the queues that are paused, when and why."""

    async def update(
        self, name: str, *, concurrency: int | EllipsisType | None = ..., max_size: int | EllipsisType | None = ...
    ) -> None:
        """Change the given limits; `None` removes a limit."""

    async def pause(self, name: str, by: str | None = None, reason: str | None = None) -> None: ...
    async def resume(self, name: str) -> None: ...


class AuditTrail(Protocol):
    """The audit of all instances."""

    async def record(self, entry: AuditEntry, *, wait: bool = True) -> None:
        """Take an entry; with `wait`, return once it is stored or is stored later. Never raises."""

    async def page(self, query: AuditQuery) -> AuditPage:
        """One page, newest first."""


class OperationBook(Protocol):
    """The bulk operations of all instances."""

    async def begin(self, order: Order) -> Operation:
        """Store one, and begin to work it off; raises `KeyReusedError` and `BackendError`."""

    async def preview(self, kind: OperationKind, task_ids: Sequence[str]) -> list[OperationItem]:
        """What an operation on these tasks would do as they are now; changes nothing."""

    async def wait(self, operation_id: str, timeout: float, most: int) -> Operation:
        """Return it once it has ended, has more than `most` tasks, or `timeout` seconds have passed."""

    async def get(self, operation_id: str) -> Operation:
        """One operation; raises `OperationNotFoundError`."""

    async def page(self, query: OperationQuery) -> list[Operation]:
        """Operations, newest first."""

    async def items(self, operation_id: str, first: int, limit: int) -> list[OperationItem]:
        """Items of an operation, from a position on."""


class ObjectiveBook(Protocol):
    """The objectives of task types."""

    def declared(self) -> dict[str, SLO]:
        """Those of this process, by the name of the type."""


class DeclaredType(Protocol):
    """A task type of this process."""

    @property
    def config(self) -> TaskConfig:
        """Its options."""


class TypeBook(Protocol):
    """The task types of this process."""

    def all(self) -> Sequence[DeclaredType]:
        """All of them."""


class FleetBoard(Protocol):
    """What the instances say of themselves."""

    async def read(self) -> Mapping[str, Said]:
        """What each living instance says, by its id; raises `BackendError`."""

    async def releases(self) -> list[ReleaseMark]:
        """When each release of the application was first seen, the oldest first; raises `BackendError`."""

    async def releases_of(self, instance_ids: Collection[str]) -> Mapping[str, str]:
        """The releases of these instances, as far as they are known, by their ids; raises `BackendError`."""


class PoolLoad(Protocol):
    """What waits in the pool for one queue."""

    @property
    def oldest_age(self) -> float:
        """Seconds; 0 if nothing waits."""


class PoolView(Protocol):
    """What this process last saw in the pool."""

    def loads(self) -> Iterable[PoolLoad]: ...
    def unclaimed(self) -> list[str]:
        """The queues that have tasks there, and no living instance that claims them."""


class EngineVitals(Protocol):
    """The health of the engine."""

    @property
    def backend_failing(self) -> bool:
        """Whether the last write to the backend failed (a full disk, a server that is down)."""


class SharedSettings(Protocol):
    """Small values that all instances share; raises `BackendError`, and `NotStartedError` before the start."""

    async def read(self, prefix: str) -> dict[str, str]:
        """The values whose keys begin with `prefix`."""

    async def write(self, key: str, value: str | None) -> None:
        """Write one value, or delete it (`None`)."""


class Ticked(Protocol):
    """What a round of everything that is due has done."""

    @property
    def started(self) -> int: ...
    @property
    def left(self) -> int: ...


class TickBook(Protocol):
    """Rounds of everything that is due."""

    async def tick(self, seconds: float) -> Ticked:
        """Let what is due run, for at most this time."""


class TaskEngine(Protocol):
    """The engine, for the API."""

    @property
    def lookup(self) -> TaskLookup: ...
    @property
    def control(self) -> TaskControl: ...
    @property
    def retries(self) -> TaskRetries: ...
    @property
    def stacks(self) -> StackBook: ...
    @property
    def queues(self) -> QueueBook: ...
    @property
    def schedules(self) -> ScheduleBook: ...
    @property
    def ticks(self) -> TickBook: ...
    @property
    def audit(self) -> AuditTrail: ...
    @property
    def operations(self) -> OperationBook: ...
    @property
    def objectives(self) -> ObjectiveBook: ...
    @property
    def types(self) -> TypeBook: ...
    @property
    def board(self) -> FleetBoard: ...
    @property
    def pool(self) -> PoolView | None: ...
    @property
    def vitals(self) -> EngineVitals: ...
    @property
    def shared(self) -> SharedSettings: ...
    @property
    def instance_id(self) -> str: ...
    @property
    def state(self) -> EngineState:
        """The state of the engine of this process."""


class MetricsPage(Protocol):
    """The metrics page."""

    async def refresh(self) -> None:
        """Include all counts of all instances until now."""

    def of_all(self, metric: str) -> dict[tuple[str, ...], float]:
        """A gauge over all living instances, by the values of its labels."""

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type; blocking, so call it on a thread."""


class EventSource(Protocol):
    """The live stream of deltas."""

    @property
    def cursor(self) -> str:
        """The id of the latest change."""

    def subscribe(self, last_event_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """Changes as encoded events, starting after `last_event_id` if that is still known."""
