"""How a batch of changes becomes few statements: the hot path of every SQL backend.

The statements are compiled once and passed to the driver with rows as tuples: SQLAlchemy's work for each row would be
most of the cost. A batch first runs as one statement for each kind of change, and each statement returns its number of
changed rows. Only if that number is unexpected, the batch is rolled back and repeated: new tasks together, and the rest
one by one, to find the refused change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import assert_never

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.base import AppendLogs, AppendSpans, Applied, Change, Insert, Outcome, Update, owners_of
from taskflow_otel.backends.sql.batch import Batch, Step, Tally, UnexpectedRowCount
from taskflow_otel.backends.sql.dialects import Row
from taskflow_otel.backends.sql.fleet import DEAD
from taskflow_otel.backends.sql.mapping import indexable, log_row, storable, tag_rows
from taskflow_otel.backends.sql.schema import tasks, used_once
from taskflow_otel.backends.sql.statements import Statements, link_row, now_micros, span_row
from taskflow_otel.errors import BackendUnavailableError, DeclaredDeadError
from taskflow_otel.model.record import TaskRecord

APPLIED = Applied(Outcome.APPLIED)
_STALE = Applied(Outcome.STALE)
_INSERT_ATTEMPTS = 5

_CHUNK = 100

Execute = Callable[[AsyncConnection, Iterator[Step]], Awaitable[None]]
"""Executes the steps of a batch; raises `UnexpectedRowCount` if a change must be refused."""


async def execute_by_rows(connection: AsyncConnection, steps: Iterator[Step]) -> None:
    """Execute each step as one statement with many rows of parameters."""
    for statement, rows, strict in steps:
        hit = (await connection.exec_driver_sql(statement, [*rows])).rowcount
        if strict and hit != len(rows):
            raise UnexpectedRowCount


class Writer:
    """Applies batches on a connection whose transaction belongs to the caller.

    `shard` separates the counts of writers that would otherwise wait for each other's rows.
    """

    def __init__(self, statements: Statements, shard: int, execute: Execute = execute_by_rows) -> None:
        self.statements = statements
        self.shard = shard
        self._execute = execute

    async def apply_at_once(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch with one statement for each kind of change; raises `UnexpectedRowCount` if one is refused."""
        batch = Batch(self.statements, changes)
        await self._execute(connection, self.steps(batch))
        await self._append_logs(connection, batch.logs, batch.stored)
        await self._append_spans(connection, batch.spans)
        await self._refuse_dead(connection, batch.owners)
        return [APPLIED] * len(changes)

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The steps of a batch except its log entries and spans."""
        yield from batch.steps()
        # Known only now that all rows are made.
        yield from batch.tally.steps(self.statements, self.shard)

    async def apply_one_by_one(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[Applied]:
        """Apply a batch, and return the result of each change."""
        tally = Tally()
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
                    results.append(APPLIED)
                case AppendSpans():
                    await self._append_spans(connection, [change])
                    results.append(APPLIED)
                case _:
                    assert_never(change)
        await self._count(connection, tally)
        await self._refuse_dead(connection, owners_of(changes))
        return results

    async def _refuse_dead(self, connection: AsyncConnection, owners: Collection[str]) -> None:
        """Raise `DeclaredDeadError` if an instance was declared dead, else prevent that until the transaction ends.

        Last in each transaction: on MySQL, heartbeats wait for this lock.
        """
        for owner in sorted(owners):
            found = await connection.exec_driver_sql(self.statements.lock_state, (owner,))
            if found.scalar() == DEAD:
                raise DeclaredDeadError(owner)

    async def uncount(self, connection: AsyncConnection, records: Iterable[TaskRecord]) -> None:
        """Subtract deleted tasks from the counts."""
        tally = Tally()
        for record in records:
            tally.add(record)
        rows = [(*row[:5], *(-number for number in row[5:])) for row in tally.rows(self.shard)]
        if rows:
            await connection.exec_driver_sql(self.statements.add_counts, rows)

    async def _append_logs(self, connection: AsyncConnection, logs: Sequence[AppendLogs], stored: set[str]) -> None:
        """Write log entries, except those of tasks that retention has deleted: they would stay for ever."""
        doubtful = [*dict.fromkeys(log.task_id for log in logs if log.task_id not in stored)]
        for start in range(0, len(doubtful), _CHUNK):
            known = select(tasks.c.task_id).where(tasks.c.task_id.in_(doubtful[start : start + _CHUNK]))
            stored.update(await connection.scalars(known))
        rows = [log_row(log.task_id, entry) for log in logs if log.task_id in stored for entry in log.entries]
        if rows:
            await connection.exec_driver_sql(
                self.statements.insert_log, [self.statements.bindable(row) for row in rows]
            )

    async def _append_spans(self, connection: AsyncConnection, changes: Sequence[AppendSpans]) -> None:
        """Write spans, except those of tasks that another instance owns or that retention has deleted."""
        rows: list[Row] = []
        for start in range(0, len(changes), _CHUNK):
            some = changes[start : start + _CHUNK]
            owners = select(tasks.c.task_id, tasks.c.instance, tasks.c.token)
            owners = owners.where(tasks.c.task_id.in_([change.task_id for change in some]))
            owned = {row[0]: (row[1], row[2]) for row in await connection.execute(owners)}
            rows += [span_row(one) for one in some if owned.get(one.task_id) == (one.instance, one.token)]
        if rows:
            await connection.exec_driver_sql(self.statements.insert_spans, rows)

    async def _count(self, connection: AsyncConnection, tally: Tally) -> None:
        await execute_by_rows(connection, tally.steps(self.statements, self.shard))

    async def _insert_together(self, connection: AsyncConnection, changes: Sequence[Change]) -> dict[str, Applied]:
        """Insert the new tasks of a batch together; return the results of those that do not depend on the order.

        One by one, a thousand duplicates would take longer than the commit timeout.
        """
        inserts = [change for change in changes if isinstance(change, Insert)]
        if any(insert.once is not None or insert.link is not None for insert in inserts):
            return {}
        # For a finished task, the counts must know whether it is new; a task that wants its key must wait for it.
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
            await connection.exec_driver_sql(
                self.statements.insert_task, [self.statements.whole_insert(record, now) for record in records]
            )
            known = select(tasks.c.task_id, tasks.c.instance, tasks.c.token)
            known = known.where(tasks.c.task_id.in_([record.task_id for record in records]))
            stored = {row[0]: (row[1], row[2]) for row in await connection.execute(known)}
            keys = [indexable(r.active_key) for r in records if r.active_key is not None and r.task_id not in stored]
            holding = select(tasks.c.active_key, tasks.c.task_id).where(tasks.c.active_key.in_(keys))
            holders = {row[0]: row[1] for row in await connection.execute(holding)} if keys else {}
            for record in records:
                if (owner := stored.get(record.task_id)) is not None:
                    settled[record.task_id] = APPLIED if owner == (record.instance, record.token) else _STALE
                elif record.active_key is not None:
                    holder = holders.get(indexable(record.active_key))
                    if holder is not None and holder not in freed:
                        settled[record.task_id] = Applied(Outcome.DUPLICATE, holder)
            if rows := [row for r in records if settled.get(r.task_id) is APPLIED for row in tag_rows(r)]:
                await connection.exec_driver_sql(self.statements.insert_tag, rows)
        return settled

    async def _insert_linked(self, connection: AsyncConnection, change: Insert, tally: Tally) -> Applied:
        record, once, link = change.record, change.once, change.link
        if link is None or record.retry_of is None:
            return await self._insert_once(connection, record, once, tally)
        original = select(tasks.c.retried_by).where(tasks.c.task_id == record.retry_of).with_for_update()
        found = (await connection.execute(original)).first()
        if found is not None and found[0] not in (None, link.seen, record.task_id):
            return Applied(Outcome.DUPLICATE, found[0])
        applied = await self._insert_once(connection, record, once, tally)
        if found is not None and applied is APPLIED:
            await connection.exec_driver_sql(self.statements.link_retry, link_row(change, now_micros()))
        return applied

    async def _insert_once(
        self, connection: AsyncConnection, record: TaskRecord, once: str | None, tally: Tally
    ) -> Applied:
        if once is None:
            return await self._insert(connection, record, tally)
        name = used_once.c.name == storable(once)
        used = (
            await connection.exec_driver_sql(self.statements.use_name, (storable(once), record.task_id))
        ).rowcount == 1
        if not used:
            user = await connection.scalar(select(used_once.c.task_id).where(name))
            if user != record.task_id:
                return Applied(Outcome.DUPLICATE, user)
        applied = await self._insert(connection, record, tally)
        if used and applied is not APPLIED:
            await connection.execute(delete(used_once).where(name))
        return applied

    async def _insert(self, connection: AsyncConnection, record: TaskRecord, tally: Tally) -> Applied:
        row = self.statements.whole_insert(record, now_micros())
        own = Tally()
        own.add(record)
        for _ in range(_INSERT_ATTEMPTS):
            if (await connection.exec_driver_sql(self.statements.insert_task, row)).rowcount == 1:
                if record.tags:
                    await connection.exec_driver_sql(self.statements.insert_tag, tag_rows(record))
                tally.merge(own)
                return APPLIED
            stored = select(tasks.c.instance, tasks.c.token).where(tasks.c.task_id == record.task_id)
            if (found := (await connection.execute(stored)).first()) is not None:
                return APPLIED if tuple(found) == (record.instance, record.token) else _STALE
            if record.active_key is not None:
                holding = select(tasks.c.task_id).where(tasks.c.active_key == indexable(record.active_key))
                if (holder := await connection.scalar(holding)) is not None:
                    return Applied(Outcome.DUPLICATE, holder)
            # The holder has released the key in between.
        raise BackendUnavailableError(
            f"the idempotency key of task {record.task_id} changes its holder too fast; try again"
        )

    async def _update(self, connection: AsyncConnection, record: TaskRecord, tally: Tally) -> Applied:
        values = self.statements.whole_update(record, now_micros())
        own = Tally()
        own.add(record)
        if (await connection.exec_driver_sql(self.statements.update_task, values)).rowcount == 1:
            tally.merge(own)
            return APPLIED
        # A finished task is never rewritten: a match here means that this same update was applied before.
        mine = select(tasks.c.task_id).where(
            tasks.c.task_id == record.task_id, tasks.c.instance == record.instance, tasks.c.token == record.token
        )
        return _STALE if await connection.scalar(mine) is None else APPLIED
