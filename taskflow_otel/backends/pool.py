"""What a backend may store beside owned tasks: the pool, whose tasks nobody owns until an instance claims them.

The contract is optional. Queues can be shared (`QueueConfig(run="pool")`) only on a backend that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from taskflow_otel.model.record import TaskRecord

POOL: Final = "pool"
"""The owner of the tasks in the pool. No instance has this id."""
CANCELLED: Final = "cancel"
"""The message of the bell that tells of a cancellation; that of a gift is empty."""


class Pooled(Struct, frozen=True, gc=False):
    """A task that its owner gives to the pool, with what claims look at."""

    task_id: str
    queue: str
    priority: int
    func_name: str
    seal: str | None
    """`seal_of` its arguments."""
    created_at: datetime
    since: datetime
    """When it became ready."""


class Wanted(Struct, frozen=True):
    """What an instance can run now."""

    queue: str
    names: Collection[str]
    limit: int
    """At least 1."""
    of_all: int | None = None
    """How many tasks of the queue may run on all instances together; `None` is no such limit."""
    task_id: str | None = None
    """The only task that is wanted; `None` is any."""


class Claimed(Struct, frozen=True, gc=False):
    """A task that this instance owns now, and when it became ready."""

    record: TaskRecord
    since: datetime


class PoolDepth(Struct, frozen=True):
    """The tasks of one queue that wait in the pool."""

    tasks: int
    oldest: datetime
    """When the one that waits longest became ready."""


class PoolStore(Protocol):
    """Stores the pool. The errors are those of a `Backend`.

    With each change of its owner, the token of a task grows by one, so a change by an earlier owner is refused.
    """

    async def give(self, owner: str, tasks: Sequence[Pooled]) -> None:
        """Move those of these tasks that `owner` owns, and that have not finished, into the pool.

        Harmless to repeat: a task that has another owner by now stays where it is.
        """

    async def claim(self, owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        """Make `owner` the owner of tasks that it can run: those of the highest priority, then the oldest.

        Exactly one caller gets each task.

        With `wanted.of_all`, each claimed task holds a slot of its queue: as long as this claim is the latest change of
        its owner, and until it finishes or fails (a retry needs a new claim). No claim of any instance exceeds the
        number of slots. Nothing counts them up and down: they are read from the stored tasks.

        `seals` is that of `Backend.take_over`. If the answer to a claim was lost, the next claim of the same owner also
        returns its tasks; it may return tasks that the owner has otherwise, too.
        """

    async def claim_one(self, owner: str, task_id: str) -> Claimed | None:
        """Make `owner` the owner of this task, if it is in the pool.

        If the answer to a claim of this task was lost, the next one by the same owner returns it.
        """

    async def depth(self, queues: Collection[str], *, others: bool = False) -> dict[str, PoolDepth]:
        """Those of these queues that have tasks in the pool; with `others`, also all other queues that have any."""


@runtime_checkable
class KeepsPool(Protocol):
    """A backend that stores the pool."""

    @property
    def pool_store(self) -> PoolStore:
        """The store; it works while the backend is open."""


class News(NamedTuple):
    """What is called when the bell of the pool rings."""

    given: Callable[[], None]
    """A task came into the pool."""
    cancelled: Callable[[], None]
    """Someone asked for the cancellation of a task, of the pool or of any instance."""

    def all(self) -> None:
        """Both: nobody knows what has happened."""
        self.given()
        self.cancelled()

    def heard(self, message: str) -> None:
        """One of them, as the message says."""
        (self.cancelled if message == CANCELLED else self.given)()


class PoolBell(Protocol):
    """Rings when a task came into the pool or must be cancelled, also in another process."""

    async def hear(self, news: News) -> None:
        """Call one of `news` at each ring, and both once at the beginning; for as long as the connection lasts.

        Rings may be missing, or be too many. Returns if no notification can arrive here. Raises `BackendError` when
        the connection breaks.
        """


@runtime_checkable
class RingsForPool(Protocol):
    """A backend whose pool has a bell."""

    @property
    def pool_bell(self) -> PoolBell:
        """The bell; it works while the backend is open."""
