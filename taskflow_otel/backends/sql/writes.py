"""How a batch of changes becomes few statements: the hot path of every SQL backend.

The statements are compiled once and given to the driver as they are, with the rows as tuples: the time SQLAlchemy
spends on each row would be most of the cost. A batch first runs as one statement for each kind of change, which
says how many rows it hit. Only if that number is not the expected one is the batch rolled back and done once
more, new tasks together and the rest change by change, to learn which one was refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, UpdateBase, bindparam, delete, or_, select, update
from sqlalchemy.engine import Dialect as EngineDialect
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.base import AppendLogs, Applied, Change, Insert, Outcome, Update
from taskflow_otel.backends.sql.dialects import Dialect, Row
from taskflow_otel.backends.sql.mapping import DERIVED, STORED, indexable, log_row, row_maker, storable, tag_rows
from taskflow_otel.backends.sql.schema import finished_counts, task_logs, task_tags, tasks, used_once
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.record import TaskRecord

_APPLIED = Applied(Outcome.APPLIED)
_STALE = Applied(Outcome.STALE)
_INSERT_ATTEMPTS = 5

# Rows that are made without letting the event loop run in between: a few milliseconds of work.
_CHUNK = 100

_MUTABLE = [field for field in STORED if field.mutable]
_WRITTEN = [*(field.name for field in (*_MUTABLE, *DERIVED)), "updated_at"]
_MATCHED = ["task_id", "instance", "token"]

_insert_row = row_maker(STORED)
_update_row = row_maker(_MUTABLE)

COUNTED = ("tasks", "timed", "duration_micros")


class UnexpectedRowCount(Exception):
    """A statement hit fewer rows than it was given: one of the changes is to be refused. Never leaves the backend."""


def now_micros() -> int:
    """The present, in microseconds since 1970."""
    return time.time_ns() // 1_000


class _ByKind:
    """The changes of a batch, to be executed by kind: inserts, then updates, then log entries.

    That means the same as in their order whenever none is refused: inserting first only makes more keys meet. Of
    several updates of one task the last wins, because each carries all mutable fields, but none after one that ends it.
    """

    def __init__(self, changes: Iterable[Change]) -> None:
        self.inserts: list[TaskRecord] = []
        self.updates: dict[tuple[str, str, int], TaskRecord] = {}
        self.logs: list[AppendLogs] = []
        self.once_rows: list[Row] = []
        self.links: list[Insert] = []
        for change in changes:
            match change:
                case Insert(record, once, link):
                    self.inserts.append(record)
                    if once is not None:
                        self.once_rows.append((storable(once), record.task_id))
                    if link is not None and record.retry_of is not None:
                        self.links.append(change)
                case Update(record):
                    key = (record.task_id, record.instance, record.token)
                    if (known := self.updates.get(key)) is None or not known.status.finished:
                        self.updates[key] = record
                case AppendLogs():
                    self.logs.append(change)


class _Tally:
    """What the finished tasks of one transaction add to the counts.

    A record is added in the moment in which its row is made: a task that is not persisted may change while the
    statement runs.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str, str], list[int]] = {}

    def add(self, record: TaskRecord) -> None:
        if not record.status.finished:
            return
        key = (record.func_name, record.queue, record.source, record.status.value)
        sums = self._sums.setdefault(key, [0, 0, 0])
        sums[0] += 1
        if record.duration is not None:
            sums[1] += 1
            sums[2] += round(record.duration * 1e6)

    def merge(self, other: _Tally) -> None:
        for key, sums in other._sums.items():
            self._sums[key] = [a + b for a, b in zip(self._sums.get(key, (0, 0, 0)), sums, strict=True)]

    def rows(self, shard: int) -> list[Row]:
        # In one order everywhere, so that two writers cannot wait for each other.
        return [(*key, shard, *self._sums[key]) for key in sorted(self._sums)]


class Writer:
    """Applies batches on a connection whose transaction belongs to the caller.

    `shard` separates the counts of writers that would otherwise wait for each other's rows.
    """

    def __init__(self, engine_dialect: EngineDialect, dialect: Dialect, shard: int) -> None:
        def text(statement: UpdateBase, columns: Sequence[str] | None = None) -> str:
            return str(statement.compile(dialect=engine_dialect, column_keys=columns))

        def values(table: Table, prefix: str, names: Iterable[str]) -> dict[str, ColumnElement[Any]]:
            parameters = {name: bindparam(prefix + name, type_=table.c[name].type) for name in names}
            return {n: dialect.nullable(p) if table.c[n].nullable else p for n, p in parameters.items()}

        def insert_text(table: Table) -> str:
            return text(dialect.insert_ignore(table).values(values(table, "", table.c.keys())))

        self._shard = shard
        self._bindable = dialect.bindable
        self._insert_tasks = insert_text(tasks)
        self._insert_logs = insert_text(task_logs)
        self._insert_tags = insert_text(task_tags)
        self._use_names = insert_text(used_once)
        self._add_counts = text(
            dialect.insert_or_add(finished_counts, COUNTED), [column.name for column in finished_counts.columns]
        )
        self._link_retries = text(
            update(tasks)
            .where(
                tasks.c.task_id == bindparam("original"),
                or_(
                    tasks.c.retried_by.is_(None),
                    tasks.c.retried_by == bindparam("seen"),
                    tasks.c.retried_by == bindparam("same"),
                ),
            )
            .values(retried_by=bindparam("retry"), updated_at=bindparam("now"))
        )
        self._update_tasks = text(
            update(tasks)
            .where(
                *(tasks.c[name] == bindparam(f"match_{name}") for name in _MATCHED),
                tasks.c.finished_at.is_(None),
            )
            .values(values(tasks, "new_", _WRITTEN))
        )

    async def apply_at_once(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch with one statement for each kind of change; raises `UnexpectedRowCount` if any is refused."""
        batch = _ByKind(changes)
        now = now_micros()
        # Keys and ids in one order everywhere, so that two writers cannot wait for each other.
        inserts = sorted(batch.inserts, key=lambda record: record.active_key or "")
        updates = [batch.updates[key] for key in sorted(batch.updates)]
        tally = _Tally()
        names = sorted(batch.once_rows)
        if names and (await connection.exec_driver_sql(self._use_names, names)).rowcount != len(names):
            raise UnexpectedRowCount
        await self._execute_all(connection, self._insert_tasks, self._inserted, inserts, now, tally)
        if tags := [row for record in inserts if record.tags for row in tag_rows(record)]:
            await connection.exec_driver_sql(self._insert_tags, tags)
        links = sorted(_link_row(insert, now) for insert in batch.links)
        if links and (await connection.exec_driver_sql(self._link_retries, links)).rowcount != len(links):
            raise UnexpectedRowCount
        await self._execute_all(connection, self._update_tasks, self._updated, updates, now, tally)
        # Whatever was inserted or updated just now is there.
        stored = {record.task_id for records in (inserts, updates) for record in records}
        await self._append_logs(connection, batch.logs, stored)
        await self._count(connection, tally)
        return [_APPLIED] * len(changes)

    async def apply_one_by_one(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch, and say of each change what became of it."""
        tally = _Tally()
        results: list[Applied] = []
        settled = await self._insert_together(connection, changes)
        for change in changes:
            match change:
                case Insert(record):
                    known = settled.get(record.task_id)
                    results.append(known or await self._insert_linked(connection, change, tally))
                case Update(record):
                    results.append(await self._update(connection, record, tally))
                case AppendLogs():
                    await self._append_logs(connection, [change], set())
                    results.append(_APPLIED)
        await self._count(connection, tally)
        return results

    async def uncount(self, connection: AsyncConnection, records: Iterable[TaskRecord]) -> None:
        """Take deleted tasks out of the counts."""
        tally = _Tally()
        for record in records:
            tally.add(record)
        rows = [(*row[:5], *(-number for number in row[5:])) for row in tally.rows(self._shard)]
        if rows:
            await connection.exec_driver_sql(self._add_counts, rows)

    async def _append_logs(self, connection: AsyncConnection, logs: Sequence[AppendLogs], stored: set[str]) -> None:
        """Write log entries, but not those of tasks that retention has deleted: they would stay for ever."""
        doubtful = [*dict.fromkeys(log.task_id for log in logs if log.task_id not in stored)]
        for start in range(0, len(doubtful), _CHUNK):
            known = select(tasks.c.task_id).where(tasks.c.task_id.in_(doubtful[start : start + _CHUNK]))
            stored.update(await connection.scalars(known))
        rows = [log_row(log.task_id, entry) for log in logs if log.task_id in stored for entry in log.entries]
        if rows:
            await connection.exec_driver_sql(self._insert_logs, [self._bindable(row) for row in rows])

    async def _execute_all(
        self,
        connection: AsyncConnection,
        statement: str,
        to_row: Callable[[TaskRecord, int], Row],
        records: Sequence[TaskRecord],
        now: int,
        tally: _Tally,
    ) -> None:
        for start in range(0, len(records), _CHUNK):
            rows = []
            for record in records[start : start + _CHUNK]:
                rows.append(to_row(record, now))
                tally.add(record)
            if (await connection.exec_driver_sql(statement, rows)).rowcount != len(rows):
                raise UnexpectedRowCount

    async def _count(self, connection: AsyncConnection, tally: _Tally) -> None:
        if rows := tally.rows(self._shard):
            await connection.exec_driver_sql(self._add_counts, rows)

    async def _insert_together(self, connection: AsyncConnection, changes: Sequence[Change]) -> dict[str, Applied]:
        """Insert the new tasks of a batch, and say what became of those of which the order of changes tells nothing.

        A thousand duplicates at once would take longer one by one than whoever waits for their commit does.
        """
        inserts = [change for change in changes if isinstance(change, Insert)]
        if any(insert.once is not None or insert.link is not None for insert in inserts):
            return {}
        # Of a finished one the count must know whether it is new; whoever wants its key has to wait for its turn.
        taken = {insert.record.active_key for insert in inserts if insert.record.status.finished} - {None}
        new = [
            insert.record
            for insert in inserts
            if not insert.record.status.finished and insert.record.active_key not in taken
        ]
        new.sort(key=lambda record: record.active_key or "")
        settled: dict[str, Applied] = {}
        freed = {change.record.task_id for change in changes if isinstance(change, Update)}
        now = now_micros()
        for start in range(0, len(new), _CHUNK):
            records = new[start : start + _CHUNK]
            await connection.exec_driver_sql(self._insert_tasks, [self._inserted(record, now) for record in records])
            known = select(tasks.c.task_id, tasks.c.instance, tasks.c.token)
            known = known.where(tasks.c.task_id.in_([record.task_id for record in records]))
            stored = {row[0]: (row[1], row[2]) for row in await connection.execute(known)}
            keys = [indexable(r.active_key) for r in records if r.active_key is not None and r.task_id not in stored]
            holding = select(tasks.c.active_key, tasks.c.task_id).where(tasks.c.active_key.in_(keys))
            holders = {row[0]: row[1] for row in await connection.execute(holding)} if keys else {}
            for record in records:
                if (owner := stored.get(record.task_id)) is not None:
                    settled[record.task_id] = _APPLIED if owner == (record.instance, record.token) else _STALE
                elif record.active_key is not None:
                    holder = holders.get(indexable(record.active_key))
                    if holder is not None and holder not in freed:
                        settled[record.task_id] = Applied(Outcome.DUPLICATE, holder)
            if rows := [row for r in records if settled.get(r.task_id) is _APPLIED for row in tag_rows(r)]:
                await connection.exec_driver_sql(self._insert_tags, rows)
        return settled

    async def _insert_linked(self, connection: AsyncConnection, change: Insert, tally: _Tally) -> Applied:
        record, once, link = change.record, change.once, change.link
        if link is None or record.retry_of is None:
            return await self._insert_once(connection, record, once, tally)
        original = select(tasks.c.retried_by).where(tasks.c.task_id == record.retry_of).with_for_update()
        found = (await connection.execute(original)).first()
        if found is not None and found[0] not in (None, link.seen, record.task_id):
            return Applied(Outcome.DUPLICATE, found[0])
        applied = await self._insert_once(connection, record, once, tally)
        if found is not None and applied is _APPLIED:
            await connection.exec_driver_sql(self._link_retries, _link_row(change, now_micros()))
        return applied

    async def _insert_once(
        self, connection: AsyncConnection, record: TaskRecord, once: str | None, tally: _Tally
    ) -> Applied:
        if once is None:
            return await self._insert(connection, record, tally)
        name = used_once.c.name == storable(once)
        used = (await connection.exec_driver_sql(self._use_names, (storable(once), record.task_id))).rowcount == 1
        if not used:
            user = await connection.scalar(select(used_once.c.task_id).where(name))
            if user != record.task_id:
                return Applied(Outcome.DUPLICATE, user)
        applied = await self._insert(connection, record, tally)
        if used and applied is not _APPLIED:
            await connection.execute(delete(used_once).where(name))
        return applied

    async def _insert(self, connection: AsyncConnection, record: TaskRecord, tally: _Tally) -> Applied:
        row = self._inserted(record, now_micros())
        own = _Tally()
        own.add(record)
        for _ in range(_INSERT_ATTEMPTS):
            if (await connection.exec_driver_sql(self._insert_tasks, row)).rowcount == 1:
                if record.tags:
                    await connection.exec_driver_sql(self._insert_tags, tag_rows(record))
                tally.merge(own)
                return _APPLIED
            stored = select(tasks.c.instance, tasks.c.token).where(tasks.c.task_id == record.task_id)
            if (found := (await connection.execute(stored)).first()) is not None:
                return _APPLIED if tuple(found) == (record.instance, record.token) else _STALE
            if record.active_key is not None:
                holding = select(tasks.c.task_id).where(tasks.c.active_key == indexable(record.active_key))
                if (holder := await connection.scalar(holding)) is not None:
                    return Applied(Outcome.DUPLICATE, holder)
            # The holder has let go of the key in between.
        raise BackendUnavailableError(f"the idempotency key of task {record.task_id} changes hands too fast; try again")

    async def _update(self, connection: AsyncConnection, record: TaskRecord, tally: _Tally) -> Applied:
        values = self._updated(record, now_micros())
        own = _Tally()
        own.add(record)
        if (await connection.exec_driver_sql(self._update_tasks, values)).rowcount == 1:
            tally.merge(own)
            return _APPLIED
        # A finished task is never rewritten: what matches nevertheless is this same update, applied before.
        mine = select(tasks.c.task_id).where(
            tasks.c.task_id == record.task_id, tasks.c.instance == record.instance, tasks.c.token == record.token
        )
        return _STALE if await connection.scalar(mine) is None else _APPLIED

    def _inserted(self, record: TaskRecord, now: int) -> Row:
        return self._bindable((*_insert_row(record), now))

    def _updated(self, record: TaskRecord, now: int) -> Row:
        return self._bindable((*_update_row(record), now, record.task_id, record.instance, record.token))


def _link_row(change: Insert, now: int) -> Row:
    record, seen = change.record, None if change.link is None else change.link.seen
    return (record.task_id, now, record.retry_of, seen or "", record.task_id)
