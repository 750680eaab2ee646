"""The SQL backend: the contract of `taskflow_otel.backends.base` on SQLAlchemy Core, the same for every database."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import msgspec
from sqlalchemy import Select, delete, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.base import Applied, Change
from taskflow_otel.backends.faults import Fault
from taskflow_otel.backends.sql import fleet, queries
from taskflow_otel.backends.sql.audit import SqlAuditStore
from taskflow_otel.backends.sql.batch import Step, UnexpectedRowCount
from taskflow_otel.backends.sql.database import Database
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.failures import SqlFailureStore
from taskflow_otel.backends.sql.figures import SqlFigureStore
from taskflow_otel.backends.sql.mapping import (
    indexable,
    micros,
    storable,
    to_instance,
    to_log_entry,
    to_record,
    to_records,
)
from taskflow_otel.backends.sql.operations import SqlOperationStore
from taskflow_otel.backends.sql.pool import SqlPoolStore
from taskflow_otel.backends.sql.schema import instances, settings, task_logs, task_spans, task_tags, tasks, used_once
from taskflow_otel.backends.sql.search import Searcher
from taskflow_otel.backends.sql.spans import SqlSpanStore
from taskflow_otel.backends.sql.statements import Statements, now_micros
from taskflow_otel.backends.sql.transactions import SqlTransactionStore
from taskflow_otel.backends.sql.writes import Writer, execute_by_rows
from taskflow_otel.model.query import Instance, TaskCounts, TaskPage, TaskQuery, sound
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.runtime.readable import Readable

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)


class SqlBackend(Database):
    """What the SQL backends share: everything except the connection and the wording of errors."""

    durable = True
    _shards: ClassVar[int] = 16
    _one_writer: ClassVar[bool] = False
    """Whether an open write transaction keeps all others from writing."""

    def __init__(self, where: str, dialect: Dialect, timeout: float | None, namespace: str | None) -> None:
        super().__init__(where, dialect, timeout, namespace)
        self._writer: Writer | None = None
        self._readable = Readable(logger)
        self.audit_store: SqlAuditStore = SqlAuditStore(self._read, self._transact, dialect)
        self.operation_store: SqlOperationStore = SqlOperationStore(self._read, self._transact, dialect)
        self.figure_store: SqlFigureStore = SqlFigureStore(self._read, self._transact)
        self.failure_store: SqlFailureStore = SqlFailureStore(self._read)
        self.span_store: SqlSpanStore = SqlSpanStore(self._read)
        self.pool_store: SqlPoolStore = self._make_pool_store()
        self.transaction_store: SqlTransactionStore = SqlTransactionStore(
            self.pool_store, dialect, self._named, where, exclusive=self._one_writer
        )
        self._unanswered: dict[str, int] = {}
        """New owners whose latest `take_over` got no answer, and when the first such call began."""

    def _make_pool_store(self) -> SqlPoolStore:
        return SqlPoolStore(self._read, self._transact, self._dialect, self._named)

    async def open(self) -> None:
        """Connect; create the schema, or migrate an older one; raise `SchemaVersionError` on a newer one."""
        engine = await self._open()
        if engine is not None:
            statements = Statements(engine.dialect, self._dialect, self._named)
            self._writer = Writer(statements, secrets.randbelow(self._shards), self._execute)

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes in one transaction, in order, and return one result for each."""
        if not changes:
            return []
        writer = self._open_writer()
        async with self._guard("writing"):
            try:
                try:
                    return await self._apply_at_once(writer, changes)
                except UnexpectedRowCount:
                    return await self._write(lambda connection: writer.apply_one_by_one(connection, changes))
            except DBAPIError as error:
                if self._dialect.fault(error) is Fault.HELD:
                    # Another writer may have locked the rows of the counts.
                    writer.shard = secrets.randbelow(self._shards)
                raise

    async def _execute(self, connection: AsyncConnection, steps: Iterator[Step]) -> None:
        """Execute the steps of a batch; raises `UnexpectedRowCount` if a change must be refused."""
        await execute_by_rows(connection, steps)

    async def _apply_at_once(self, writer: Writer, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch in one transaction; raises `UnexpectedRowCount` if any of its changes must be refused."""
        return await self._write(lambda connection: writer.apply_at_once(connection, changes))

    async def get(self, task_id: str) -> TaskRecord | None:
        """One task without its logs, or `None`."""
        rows = await self._read(select(*queries.RECORD_COLUMNS).where(tasks.c.task_id == indexable(task_id)))
        return to_record(rows[0]) if rows else None

    async def get_all(self, task_ids: Collection[str]) -> dict[str, TaskRecord]:
        """Those of these tasks that are stored, by id, without their logs."""
        found: dict[str, TaskRecord] = {}
        for chunk in queries.chunks([indexable(task_id) for task_id in task_ids]):
            rows = await self._read(select(*queries.RECORD_COLUMNS).where(tasks.c.task_id.in_(chunk)))
            found |= {record.task_id: record for record in await to_records(rows)}
        return found

    async def logs(self, task_id: str) -> list[LogEntry]:
        """The log of one task, in order."""
        of_task = select(task_logs).where(task_logs.c.task_id == indexable(task_id))
        rows = await self._read(of_task.order_by(task_logs.c.seq))
        return [to_log_entry(row) for row in rows]

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page, newest first; `Searcher.page` describes how many tasks are read."""
        async with self._reading() as read:
            found = await Searcher(read, self._dialect).page(query)
        return TaskPage(await to_records(found.rows), found.next_cursor, found.total, found.total_exact)

    async def counts(self, query: TaskQuery) -> TaskCounts:
        """Counts by status of the tasks that the query matches, and the run times of the finished ones.

        Each write updates the counts by status, name, queue and source; for other conditions see `Searcher.counts`.
        """
        async with self._reading() as read:
            return await Searcher(read, self._dialect).counts(query)

    async def holder_of(self, idempotency_key: str) -> str | None:
        """The id of the task that holds the key now."""
        rows = await self._read(select(tasks.c.task_id).where(tasks.c.active_key == indexable(idempotency_key)))
        return rows[0][0] if rows else None

    async def changed_since(self, moment: datetime, *, not_of: str, limit: int) -> list[TaskRecord]:
        """Tasks of other instances written at or after `moment` by the writer's clock, oldest change first."""
        return await to_records(await self._read(queries.changed_since(micros(moment), not_of, limit)))

    async def request_cancel(self, task_id: str) -> bool:
        """Ask the owner of a live task to cancel it; return `False` if the task is unknown or finished."""
        return await self._transact("writing", lambda connection: self.pool_store.request_cancel(connection, task_id))

    async def cancel_requests(self, instance_id: str) -> list[str]:
        """Ids of the live tasks of this instance for which a cancellation was requested."""
        return [row[0] for row in await self._read(queries.cancel_requests(instance_id))]

    async def beat(self, instance: Instance) -> bool:
        """Write the instance's heartbeat; the first one registers it. Return `False` if it was declared dead."""
        return await self._transact("the heartbeat", lambda connection: fleet.beat(connection, self._dialect, instance))

    async def instances(self) -> list[Instance]:
        """All known instances, in the order in which they started."""
        rows = await self._read(select(instances).order_by(instances.c.started_at, instances.c.instance_id))
        found = [self._readable.read(f"the row of instance {row[0]!r}", _instance, row) for row in rows]
        return [instance for instance in found if instance is not None]

    async def declare_dead(self, instance_id: str, seen_heartbeat: datetime) -> bool:
        """Declare an instance dead if its heartbeat is still `seen_heartbeat`; exactly one caller gets `True`."""
        return await self._transact(
            "declaring dead", lambda connection: fleet.declare_dead(connection, instance_id, seen_heartbeat)
        )

    async def take_over(
        self,
        dead: Collection[str],
        new_owner: str,
        names: Collection[str] | None,
        limit: int,
        seals: Collection[str] = (),
    ) -> list[TaskRecord]:
        """Take unfinished tasks of dead or stopped instances, the oldest of each first; exactly one caller gets each.

        If an answer was lost, the next call of the same owner returns its tasks again.
        """
        lost_since = self._unanswered.get(new_owner)
        if not dead and lost_since is None:
            return []
        statement = queries.orphans(dead, new_owner, names, limit, seals)

        async def work(connection: AsyncConnection) -> list[TaskRecord]:
            handed: list[TaskRecord] = []
            if lost_since is not None:
                held = (await connection.execute(queries.taken_since(new_owner, lost_since))).all()
                handed = [record for record in await to_records(held) if record.timeline[-1].instance != new_owner]
            taken = await to_records((await connection.execute(statement)).all()) if dead else []
            ids = [record.task_id for record in taken]
            for chunk in queries.chunks(ids):
                change = update(tasks).where(tasks.c.task_id.in_(chunk))
                owner = {"instance": new_owner, "live_owner": new_owner}
                await connection.execute(change.values(token=tasks.c.token + 1, updated_at=now_micros(), **owner))
            return handed + [msgspec.structs.replace(r, instance=new_owner, token=r.token + 1) for r in taken]

        self._unanswered.setdefault(new_owner, now_micros())
        async with self._guard("taking over"):
            answer = await self._write(work)
        del self._unanswered[new_owner]
        return answer

    async def orphan_names(self, dead: Collection[str], beyond: Collection[str] | None = None) -> dict[str, int]:
        """Names and counts of the unfinished tasks of the instances in `dead`."""
        return {row[0]: row[1] for row in await self._read(queries.orphan_names(dead, beyond))}

    async def forget_instances(self, ids: Collection[str]) -> None:
        """Delete dead or stopped instances without unfinished tasks."""
        await self._update_rows(fleet.forgetting(ids), "forgetting instances")

    async def delete_finished(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` tasks that ended before this moment, with their logs; return how many."""
        return len(await self._delete(queries.ended_before(micros(before), limit)))

    async def delete_tasks(self, task_ids: Collection[str]) -> list[str]:
        """Delete those of these tasks that have finished, with their logs; return the ids of the deleted ones."""
        deleted: list[str] = []
        for chunk in queries.chunks(sorted({*map(indexable, task_ids)})):
            deleted += await self._delete(queries.ended_among(chunk))
        return deleted

    async def _delete(self, statement: Select[Any]) -> list[str]:
        """Delete the tasks of these rows, and return their ids."""
        writer = self._open_writer()

        async def work(connection: AsyncConnection) -> list[str]:
            doomed = await to_records((await connection.execute(statement)).all())
            ids = [record.task_id for record in doomed]
            for chunk in queries.chunks(ids):
                for table in (task_logs, task_spans, task_tags, tasks):
                    await connection.execute(delete(table).where(table.c.task_id.in_(chunk)))
            await writer.uncount(connection, doomed)
            return ids

        return await self._transact("deleting history", work)

    async def latest_once(self, prefix: str) -> tuple[str, str] | None:
        """The greatest name used once with this prefix, and the task that used it."""
        rows = await self._read(queries.latest_once(prefix))
        return (rows[0][0], rows[0][1]) if rows else None

    async def forget_once(self, prefix: str, before: str, limit: int) -> int:
        """Delete names used once that are less than `before`."""
        names = [row[0] for row in await self._read(queries.once_before(prefix, before, limit))]
        for chunk in queries.chunks(names):
            await self._update_rows(delete(used_once).where(used_once.c.name.in_(chunk)), "forgetting names")
        return len(names)

    async def settings(self, prefix: str) -> dict[str, str]:
        """The settings whose keys begin with `prefix`."""
        return {row[0]: row[1] for row in await self._read(queries.settings_of(prefix))}

    async def put_setting(self, key: str, value: str | None) -> None:
        """Write one setting, or delete it."""
        named = settings.c.name == storable(key)

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(settings).where(named))
            if value is not None:
                row = {"name": storable(key), "value": storable(value)}
                await connection.execute(self._dialect.insert_ignore(settings).values(row))

        await self._transact("writing a setting", work)

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        """Write several settings in one transaction if the expected ones match."""
        wanted = {storable(key): value if value is None else storable(value) for key, value in expected.items()}
        news = {storable(key): value if value is None else storable(value) for key, value in changes.items()}
        names = sorted({*wanted, *news})

        async def work(connection: AsyncConnection) -> bool:
            found = select(settings).where(settings.c.name.in_(names)).order_by(settings.c.name).with_for_update()
            stored = {row.name: row.value for row in (await connection.execute(found)).all()}
            if any(stored.get(name) != value for name, value in wanted.items()):
                return False
            for name, value in sorted(news.items()):
                named = settings.c.name == name
                if value is None:
                    await connection.execute(delete(settings).where(named))
                elif name in stored:
                    await connection.execute(update(settings).where(named).values(value=value))
                else:
                    await connection.execute(settings.insert().values(name=name, value=value))
            return True

        async with self._guard("writing settings"):
            try:
                return await self._write(work)
            except IntegrityError:
                # Another process has just inserted one of the settings.
                return False

    def _open_writer(self) -> Writer:
        if self._writer is None or not self._opened:
            raise self._not_open()
        return self._writer


def _instance(row: Sequence[Any]) -> Instance:
    return sound(to_instance(row))
