"""What a database backend may offer beside its own writes: a task that is inserted in the transaction of the caller.

The contract is optional. `session=` works only on a backend that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from taskflow_otel.backends.pool import Claimed, Pooled
from taskflow_otel.model.record import TaskRecord

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    CallerSession: TypeAlias = (
        Session | AsyncSession | Connection | AsyncConnection | scoped_session[Any] | async_scoped_session[Any]
    )
    """What `session=` takes."""
else:
    CallerSession = Any


class Transaction(Protocol):
    """The open transaction of a caller."""

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""

    @property
    def asked_to_commit(self) -> bool:
        """Whether its commit was sent: without an answer, its result is unknown."""


class Written(Protocol):
    """A task that was written, or refused."""

    @property
    def holder(self) -> str | None:
        """The task that holds its idempotency key; then nothing was written."""

    @property
    def transaction(self) -> Transaction:
        """The transaction that it was written in."""


class Joined(Protocol):
    """The session or connection of a caller.

    Errors of the caller's own database or transaction are those of SQLAlchemy, because they are the caller's.
    """

    @property
    def asynchronous(self) -> bool:
        """Whether its statements are awaited."""

    def insert(self, record: TaskRecord, pooled: Pooled, instance_id: str) -> Written:
        """Insert a task that nobody owns, in the open transaction; only if it is not `asynchronous`.

        `instance_id`: a living instance that the database must know, or it is not that of this backend. Raises
        `ConfigurationError` if it is another database, or if the connection commits each statement by itself.
        """

    async def insert_soon(self, record: TaskRecord, pooled: Pooled, instance_id: str) -> Written:
        """The same where statements are awaited."""

    def insert_at_commit(
        self, record: TaskRecord, pooled: Pooled, instance_id: str, done: Callable[[Written], None]
    ) -> Transaction:
        """Insert a task as the last statement of the transaction, or of the savepoint; then call `done`.

        For code that cannot await. Raises `ConfigurationError` for a connection without a session.
        """

    async def find(self, task_id: str, instance_id: str) -> TaskRecord | None:
        """A task as the transaction sees it, or `None`."""

    async def request_cancel(self, task_id: str, instance_id: str) -> bool:
        """Do what `Backend.request_cancel` does, in the transaction."""


class TransactionStore(Protocol):
    """Inserts tasks in the transactions of callers, and finds out which of them exist.

    `exclusive`: while such a transaction is open, nothing else can be written to the database.
    """

    exclusive: bool

    def join(self, session: object) -> Joined:
        """A session or connection; raises `ConfigurationError` for any other object."""

    def watch(self, ended: Callable[[], None]) -> None:
        """Call `ended` when one of these transactions ends or is about to, from any thread; may be called too often."""

    async def claim(self, owner: str, task_ids: Collection[str]) -> list[Claimed]:
        """Make `owner` the owner of those of these tasks that are in the pool."""


@runtime_checkable
class KeepsTransactions(Protocol):
    """A backend that inserts tasks in transactions of callers."""

    @property
    def transaction_store(self) -> TransactionStore:
        """The store; it works while the backend is open."""
