"""Tasks in the transactions of callers: their sessions and connections, of any driver, on the same database."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, MetaData, RootTransaction, Table, event, inspect, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from taskflow_otel.backends.pool import POOL, Claimed, Pooled
from taskflow_otel.backends.sql import pool as pools
from taskflow_otel.backends.sql import schema
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import STORED, indexable, row_maker, tag_rows, to_record
from taskflow_otel.backends.sql.pool import SqlPoolStore
from taskflow_otel.backends.sql.statements import now_micros
from taskflow_otel.compat.sqlalchemy import autocommits, driver_autocommits
from taskflow_otel.errors import BackendUnavailableError, ConfigurationError
from taskflow_otel.model.record import TaskRecord

T = TypeVar("T")

_HOW = (
    "Give a Session, an AsyncSession, a Connection or an AsyncConnection of SQLAlchemy that is connected to the "
    "database of this manager's backend"
)
_INSERT_ATTEMPTS = 3
_row = row_maker(STORED)


class SqlTransaction:
    """The transaction of a connection, which is not kept alive."""

    def __init__(self, root: RootTransaction, ended: Callable[[], None]) -> None:
        self._root = weakref.ref(root, lambda _: ended())
        self.asked_to_commit: bool = False
        """See `Transaction`."""

    @property
    def over(self) -> bool:
        """See `Transaction`."""
        root = self._root()
        return root is None or not root.is_active


class _AtCommit:
    """The transaction or savepoint of a session in which a task will be written."""

    def __init__(self, own: SessionTransaction, write: Callable[[Connection], SqlWritten]) -> None:
        self._own = weakref.ref(own)
        self.write: Callable[[Connection], SqlWritten] = write
        self.later: SqlTransaction | None = None
        """The transaction of the connection, once the task is written."""
        self.ended = False

    def is_own(self, other: SessionTransaction | None) -> bool:
        return other is not None and self._own() is other

    @property
    def over(self) -> bool:
        if self.later is not None:
            return self.later.over
        return self.ended or self._own() is None

    @property
    def asked_to_commit(self) -> bool:
        return self.later is not None and self.later.asked_to_commit


class SqlWritten(NamedTuple):
    """See `Written`."""

    holder: str | None
    transaction: SqlTransaction


class SqlTransactionStore:
    """See `TransactionStore`. `where`: the name of the database, for errors; `kinds`: SQLAlchemy's names of it."""

    def __init__(
        self, pool_store: SqlPoolStore, dialect: Dialect, named: Callable[[str], str], where: str, *, exclusive: bool
    ) -> None:
        self.exclusive: bool = exclusive
        """See `TransactionStore`."""
        self._pool = pool_store
        self._dialect = dialect
        self._where = where
        # The tables under the names that they have in the database: the connection is not ours, so it renames nothing.
        metadata = MetaData()

        def called(table: Table) -> Table:
            return table.to_metadata(metadata, name=named(table.name))

        self._tasks, self._tags = called(schema.tasks), called(schema.task_tags)
        self._pooled, self._instances = called(schema.pool), called(schema.instances)
        self._insert = dialect.insert_ignore(self._tasks)
        self._known: weakref.WeakSet[Engine] = weakref.WeakSet()
        """The engines whose database is this one."""
        self._open: weakref.WeakKeyDictionary[Connection, SqlTransaction] = weakref.WeakKeyDictionary()
        self._waiting: weakref.WeakKeyDictionary[Session, list[_AtCommit]] = weakref.WeakKeyDictionary()
        self._ended: Callable[[], None] = _nothing

    def watch(self, ended: Callable[[], None]) -> None:
        """See `TransactionStore`."""
        self._ended = ended

    def join(self, session: object) -> SqlJoined:
        """See `TransactionStore`."""
        if isinstance(session, scoped_session | async_scoped_session):
            session = session()
        if not isinstance(session, Session | AsyncSession | Connection | AsyncConnection):
            raise ConfigurationError(f"session= cannot be {type(session).__name__!r}. {_HOW}.")
        return SqlJoined(self, session)

    async def claim(self, owner: str, task_ids: Collection[str]) -> list[Claimed]:
        """See `TransactionStore`."""
        return await self._pool.claim_these(owner, task_ids)

    def insert(self, connection: Connection, record: TaskRecord, pooled: Pooled, instance_id: str) -> SqlWritten:
        """Insert a task on the connection of a caller, in its thread or greenlet."""
        self._check(connection, instance_id, writes=True)
        transaction = self._transaction(connection)
        if driver_autocommits(connection):
            raise self._no_transaction()
        holder = self._write(connection, record, pooled)
        return SqlWritten(holder, transaction)

    def find(self, connection: Connection, task_id: str, instance_id: str) -> TaskRecord | None:
        """See `Joined`."""
        self._check(connection, instance_id, writes=False)
        columns = [self._tasks.c[field.name] for field in STORED]
        row = connection.execute(select(*columns).where(self._tasks.c.task_id == indexable(task_id))).first()
        return None if row is None else to_record(row)

    def request_cancel(self, connection: Connection, task_id: str, instance_id: str) -> bool:
        """See `Joined`."""
        self._check(connection, instance_id, writes=True)
        asked = connection.execute(pools.cancelling(self._tasks, task_id)).rowcount > 0
        if asked and self._pool.ring_cancelled is not None:
            connection.execute(self._pool.ring_cancelled)
        return asked

    def check_engine(self, session: Session) -> None:
        """Refuse a session whose database cannot be this one, without asking the database."""
        try:
            bind = session.get_bind()
        except UnboundExecutionError as error:
            raise self._unbound() from error
        if not isinstance(bind, Engine):
            bind = bind.engine
        if bind.dialect.name not in self._dialect.kinds:
            raise self._another(bind.dialect.name)

    def connection_of(self, session: Session) -> Connection:
        """The connection of a session, whose transaction begins if it has none."""
        try:
            return session.connection()
        except UnboundExecutionError as error:
            raise self._unbound() from error

    def write_at_commit(self, session: Session, write: Callable[[Connection], SqlWritten]) -> _AtCommit:
        """Call `write` as the last work of the current transaction or savepoint of a session, if that commits."""
        own = session.get_nested_transaction() or session.get_transaction() or session.begin()
        waiting = self._waiting.get(session)
        if waiting is None:
            # Once for each session: a listener cannot be removed while it is called.
            waiting = self._waiting[session] = []
            event.listen(session, "before_commit", self._before_commit)
            event.listen(session, "after_transaction_end", self._after_end)
        waiting.append(_AtCommit(own, write))
        return waiting[-1]

    def _before_commit(self, session: Session) -> None:
        current = session.get_nested_transaction() or session.get_transaction()
        for one in self._settled(session, current):
            one.later = one.write(self.connection_of(session)).transaction

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        for one in self._settled(session, transaction):
            one.ended = True
            self._ended()

    def _settled(self, session: Session, transaction: SessionTransaction | None) -> list[_AtCommit]:
        """Those that waited for the end of a transaction, which no longer wait."""
        waiting = self._waiting.get(session, [])
        own = [one for one in waiting if one.is_own(transaction)]
        waiting[:] = [one for one in waiting if one not in own]
        return own

    def _check(self, connection: Connection, instance_id: str, *, writes: bool) -> None:
        if autocommits(connection):
            raise self._no_transaction()
        if connection.engine in self._known:
            return
        if connection.dialect.name not in self._dialect.kinds:
            raise self._another(connection.dialect.name)
        # The tables alone would also be in a copy of the database. A living instance is in one database only.
        own = self._instances.c.instance_id == instance_id
        if self.exclusive and writes:
            # A read would begin the transaction: if another one wrote between that and the insert, this one could not
            # write any more (https://www.sqlite.org/isolation.html). The lock is needed now anyway.
            touch = update(self._instances).where(own).values(state=self._instances.c.state)
            try:
                known = connection.execute(touch).rowcount == 1
            except OperationalError as error:
                if "no such table" not in str(error.orig):
                    raise
                raise self._another("it has no tables of tasks") from error
        elif not inspect(connection).has_table(self._instances.name):
            raise self._another("it has no tables of tasks")
        else:
            known = connection.scalar(select(self._instances.c.instance_id).where(own)) is not None
        if not known:
            raise self._another("this process is not among its instances")
        self._known.add(connection.engine)

    def _transaction(self, connection: Connection) -> SqlTransaction:
        root = connection.get_transaction()
        if root is None:
            # SQLAlchemy begins it with the first statement.
            connection.begin()
            root = connection.get_transaction()
        assert root is not None
        transaction = self._open.get(connection)
        if transaction is None:
            for name in ("commit", "commit_twophase"):
                event.listen(connection, name, self._commits)
            for name in ("rollback", "rollback_twophase"):
                event.listen(connection, name, self._rolls_back)
        if transaction is None or transaction.over:
            transaction = self._open[connection] = SqlTransaction(root, self._ended)
        return transaction

    def _commits(self, connection: Connection, *_: object) -> None:
        if (transaction := self._open.get(connection)) is not None:
            transaction.asked_to_commit = True
        self._ended()

    def _rolls_back(self, _: Connection, *__: object) -> None:
        self._ended()

    def _write(self, connection: Connection, record: TaskRecord, pooled: Pooled) -> str | None:
        stored = msgspec.structs.replace(record, instance=POOL)
        row = dict(zip(self._tasks.c.keys(), (*_row(stored), now_micros()), strict=True))
        counted = {"preserve_rowcount": True}
        for _ in range(_INSERT_ATTEMPTS):
            if connection.execute(self._insert, row, execution_options=counted).rowcount == 1:
                if record.tags:
                    names = self._tags.c.keys()
                    tags = [dict(zip(names, tag, strict=True)) for tag in tag_rows(record)]
                    connection.execute(self._dialect.insert_ignore(self._tags), tags)
                connection.execute(self._pooled.insert(), pools.row_of(pooled))
                if self._pool.ring is not None:
                    connection.execute(self._pool.ring)
                return None
            if (holder := self.holder_of(connection, record.idempotency_key or "")) is not None:
                return holder
            # The holder has released the key in between.
        raise BackendUnavailableError(
            f"the idempotency key of task {record.task_id} changes its holder too fast; try again"
        )

    def holder_of(self, connection: Connection, idempotency_key: str) -> str | None:
        """The task that holds a key, as this transaction sees it, or as it is now."""
        holding = select(self._tasks.c.task_id).where(self._tasks.c.active_key == indexable(idempotency_key))
        found: str | None = connection.scalar(holding)
        if found is None and connection.dialect.name in ("mysql", "mariadb"):
            # Its transactions see what was there when they began; a read that locks sees what is there now.
            found = connection.scalar(holding.with_for_update(read=True))
        return found

    def _no_transaction(self) -> ConfigurationError:
        return ConfigurationError(
            "session= needs a transaction, but this connection commits each statement by itself (AUTOCOMMIT), so the "
            "task would not depend on yours. Use a connection without that, or leave session= out."
        )

    def _unbound(self) -> ConfigurationError:
        return ConfigurationError(f"session= is not bound to a database. {_HOW}: {self._where}.")

    def _another(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"session= is connected to another database ({why}). {_HOW}: {self._where}.")


class SqlJoined:
    """See `Joined`."""

    def __init__(self, store: SqlTransactionStore, session: Session | AsyncSession | Connection | AsyncConnection):
        self._store = store
        self._session = session

    @property
    def asynchronous(self) -> bool:
        """See `Joined`."""
        return isinstance(self._session, AsyncSession | AsyncConnection)

    def insert(self, record: TaskRecord, pooled: Pooled, instance_id: str) -> SqlWritten:
        """See `Joined`."""
        session = self._session
        assert isinstance(session, Session | Connection)
        connection = self._store.connection_of(session) if isinstance(session, Session) else session
        return self._store.insert(connection, record, pooled, instance_id)

    async def insert_soon(self, record: TaskRecord, pooled: Pooled, instance_id: str) -> SqlWritten:
        """See `Joined`."""
        return await self._run(lambda connection: self._store.insert(connection, record, pooled, instance_id))

    async def find(self, task_id: str, instance_id: str) -> TaskRecord | None:
        """See `Joined`."""
        return await self._run(lambda connection: self._store.find(connection, task_id, instance_id))

    async def request_cancel(self, task_id: str, instance_id: str) -> bool:
        """See `Joined`."""
        return await self._run(lambda connection: self._store.request_cancel(connection, task_id, instance_id))

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Do this on the connection; in a thread if that is synchronous, because the event loop must stay free."""
        session, store = self._session, self._store
        match session:
            case AsyncSession():
                return await session.run_sync(lambda own: work(store.connection_of(own)))
            case AsyncConnection():
                return await session.run_sync(work)
            case Session():
                return await asyncio.to_thread(lambda: work(store.connection_of(session)))
            case _:
                return await asyncio.to_thread(work, session)

    def insert_at_commit(
        self, record: TaskRecord, pooled: Pooled, instance_id: str, done: Callable[[SqlWritten], None]
    ) -> _AtCommit:
        """See `Joined`."""
        if not isinstance(self._session, AsyncSession):
            raise ConfigurationError(
                "add_task cannot await, so it cannot use an AsyncConnection. Use "
                "`await task_manager.enqueue(..., session=connection)`."
            )
        session, store = self._session.sync_session, self._store
        store.check_engine(session)

        def write(connection: Connection) -> SqlWritten:
            written = store.insert(connection, record, pooled, instance_id)
            done(written)
            return written

        return store.write_at_commit(session, write)


def _nothing() -> None:
    """The default before `watch`."""
