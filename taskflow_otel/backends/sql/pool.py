"""The pool in a SQL database: a narrow table of the tasks that nobody owns, in the order in which they are claimed.

Tasks of queues that are not shared never touch it, so the pool costs them nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    Delete,
    Select,
    Table,
    Update,
    UpdateBase,
    any_,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.pool import CANCELLED, POOL, Claimed, PoolDepth, Pooled, Wanted
from taskflow_otel.backends.sql import queries
from taskflow_otel.backends.sql.audit import Read, Write
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import indexable, micros, moment, to_record
from taskflow_otel.backends.sql.schema import pool, tasks
from taskflow_otel.backends.sql.slots import Slots
from taskflow_otel.backends.sql.statements import now_micros

_p = pool.c


class SqlPoolStore:
    """See `PoolStore`."""

    def __init__(self, read: Read, write: Write, dialect: Dialect, named: Callable[[str], str]) -> None:
        self._read = read
        self._write = write
        self._dialect = dialect
        self.ring: Select[Any] | None = dialect.ring(named(pool.name), "")
        """The statement that tells of a gift; `None` without a bell."""
        self.ring_cancelled: Select[Any] | None = dialect.ring(named(pool.name), CANCELLED)
        """The statement that tells of a cancellation; `None` without a bell."""
        self._unanswered: dict[str, dict[str, int]] = {}
        """By owner whose latest claim got no answer: the tokens that the tasks have which it may have got."""
        self._unanswered_ones: dict[tuple[str, str], int] = {}
        """The same for the claims of one task, by owner and task."""

    async def give(self, owner: str, given: Sequence[Pooled]) -> None:
        """See `PoolStore`."""
        rows = {task.task_id: row_of(task) for task in given}

        async def work(connection: AsyncConnection) -> None:
            for ids in queries.chunks(sorted(rows)):
                mine = tasks.c.task_id.in_(ids), tasks.c.instance == owner, tasks.c.finished_at.is_(None)
                locked = select(tasks.c.task_id).where(*mine).order_by(tasks.c.task_id).with_for_update()
                owned = list(await connection.scalars(locked))
                if owned:
                    await connection.execute(_pass_on(owned, POOL))
                    # Not a plain insert: one row that should not be there must not hold up the other tasks.
                    await connection.execute(self._dialect.insert_ignore(pool), [rows[task_id] for task_id in owned])
            if self.ring is not None:
                await connection.execute(self.ring)

        await self._write("giving tasks to the pool", work)

    async def claim(self, owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        """See `PoolStore`."""
        lost = dict(self._unanswered.get(owner, {}))
        statement = wanted_statement(wanted, seals)
        at_once = self._dialect.claims_at_once and wanted.of_all is None

        async def work(connection: AsyncConnection) -> list[Claimed]:
            claimed: list[Claimed] = []
            for ids in queries.chunks(sorted(lost)):
                held = select(*queries.RECORD_COLUMNS).where(tasks.c.task_id.in_(ids), tasks.c.live_owner == owner)
                records = map(to_record, (await connection.execute(held)).all())
                # Under another token, it came to this instance in another way, such as a takeover.
                claimed += [Claimed(one, one.created_at) for one in records if one.token == lost[one.task_id]]
            if at_once:
                rows = (await connection.execute(claiming_statement(statement, owner))).all()
                taken = claimed_of(rows)
                # Without a commit, nothing of this has happened.
                self._unanswered[owner].update({one.record.task_id: one.record.token for one in taken})
                return claimed + taken
            slots = None if wanted.of_all is None else await Slots.lock(connection, self._dialect, wanted.queue)
            limit = wanted.limit if slots is None else min(wanted.limit, (wanted.of_all or 0) - slots.held)
            if limit < 1:
                return claimed
            found = (await connection.execute(statement.limit(limit))).all()
            taken = await self._take(connection, owner, {row[0]: row[1] for row in found}, self._unanswered[owner])
            if slots is not None:
                await slots.give(connection, [one.record for one in taken])
            return claimed + taken

        # An idle instance looks once a second, which must not lock a SQLite file against the writers.
        if not lost and not at_once and not await self._read(statement.limit(1)):
            return []
        self._unanswered.setdefault(owner, {})
        answer = await self._write("claiming from the pool", work)
        del self._unanswered[owner]
        return answer

    async def claim_one(self, owner: str, task_id: str) -> Claimed | None:
        """See `PoolStore`."""
        statement = select(_p.task_id, _p.since).where(_p.task_id == indexable(task_id)).with_for_update()
        held = select(*queries.RECORD_COLUMNS).where(tasks.c.task_id == indexable(task_id), tasks.c.live_owner == owner)
        lost = self._unanswered_ones.pop((owner, task_id), None)
        tokens = {} if lost is None else {task_id: lost}

        async def work(connection: AsyncConnection) -> Claimed | None:
            if lost is not None and (row := (await connection.execute(held)).first()) is not None:
                record = to_record(row)
                # Under another token, it came to this instance in another way, such as a takeover.
                return Claimed(record, record.created_at) if record.token == lost else None
            found = (await connection.execute(statement)).all()
            claimed = await self._take(connection, owner, {row[0]: row[1] for row in found}, tokens)
            return claimed[0] if claimed else None

        try:
            return await self._write("claiming from the pool", work)
        except BaseException:
            # Also after a cancellation: it may have come after the commit.
            if task_id in tokens:
                self._unanswered_ones[owner, task_id] = tokens[task_id]
            raise

    async def claim_these(self, owner: str, task_ids: Collection[str]) -> list[Claimed]:
        """Make `owner` the owner of those of these tasks that are in the pool."""

        async def work(connection: AsyncConnection) -> list[Claimed]:
            claimed: list[Claimed] = []
            for ids in queries.chunks(sorted(task_ids)):
                mine = select(_p.task_id, _p.since).where(_p.task_id.in_(ids)).order_by(_p.task_id)
                found = (await connection.execute(mine.with_for_update())).all()
                claimed += await self._take(connection, owner, {row[0]: row[1] for row in found})
            return claimed

        return await self._write("claiming from the pool", work)

    async def request_cancel(self, connection: AsyncConnection, task_id: str) -> bool:
        """Ask for the cancellation of a live task, wherever it is, and tell of it; whether there is one."""
        asked = (await connection.execute(cancelling(tasks, task_id))).rowcount > 0
        if asked and self.ring_cancelled is not None:
            await connection.execute(self.ring_cancelled)
        return asked

    async def depth(self, queues: Collection[str], *, others: bool = False) -> dict[str, PoolDepth]:
        """See `PoolStore`. A name that an index cannot hold is told as it is stored, if it is not one of `queues`."""
        names = {indexable(queue): queue for queue in queues}
        rows = await self._read(depth_statement(None if others else names))
        return {names.get(name, name): PoolDepth(number, moment(oldest)) for name, number, oldest in rows}

    @staticmethod
    async def _take(
        connection: AsyncConnection, owner: str, since: dict[str, int], tokens: dict[str, int] | None = None
    ) -> list[Claimed]:
        """Take the tasks of these rows of the pool, which are locked; first note the tokens that they will have."""
        if not since:
            return []
        ids = list(since)
        await connection.execute(_forget(ids))
        stored = select(*queries.RECORD_COLUMNS).where(tasks.c.task_id.in_(ids), tasks.c.live_owner == POOL)
        rows = (await connection.execute(stored.with_for_update())).all()
        records = {record.task_id: record for record in map(to_record, rows)}
        if records:
            if tokens is not None:
                tokens.update({record.task_id: record.token + 1 for record in records.values()})
            await connection.execute(_pass_on(sorted(records), owner))
        return [
            Claimed(msgspec.structs.replace(record, instance=owner, token=record.token + 1), moment(since[task_id]))
            for task_id in ids
            if (record := records.get(task_id)) is not None
        ]


def wanted_statement(wanted: Wanted, seals: Collection[str]) -> Select[Any]:
    """The rows of the pool that one claim takes, locked against others."""
    readable = _p.seal.is_(None) if not seals else or_(_p.seal.is_(None), _p.seal.in_(sorted(seals)))
    statement = select(_p.task_id, _p.since).where(
        _p.queue == indexable(wanted.queue), _p.func_name.in_(sorted(map(indexable, wanted.names))), readable
    )
    if wanted.task_id is not None:
        statement = statement.where(_p.task_id == indexable(wanted.task_id))
    ordered = statement.order_by(_p.rank_in_queue, _p.task_id)
    return ordered.limit(wanted.limit).with_for_update(skip_locked=True)


def claiming_statement(wanted: Select[Any], owner: str) -> UpdateBase:
    """Take the tasks of these rows of the pool, and return their records and since when they were ready.

    The planner finds them by their ids, however many tasks it believes to be in the pool: in an array, and without the
    index of the owner.
    """
    found = wanted.cte("found")
    ids = any_(func.array(select(found.c.task_id).scalar_subquery()))
    since = select(found.c.since).where(found.c.task_id == tasks.c.task_id).scalar_subquery()
    gone = delete(pool).where(_p.task_id == ids).cte("gone")
    # Not even by what an index leaves out: the planner concludes from any plain comparison that it is not null.
    ownerless = func.coalesce(tasks.c.live_owner, "") == POOL
    change = update(tasks).where(tasks.c.task_id == ids, ownerless)
    change = change.values(instance=owner, live_owner=owner, token=tasks.c.token + 1, updated_at=now_micros())
    return change.returning(*queries.RECORD_COLUMNS, since).add_cte(gone)


def claimed_of(rows: Iterable[Sequence[Any]]) -> list[Claimed]:
    """What a claiming statement returned, in the order of the pool."""
    return sorted([Claimed(to_record(row[:-1]), moment(row[-1])) for row in rows], key=_turn)


def _turn(claimed: Claimed) -> tuple[int, str]:
    """As the pool orders its tasks."""
    return -claimed.record.priority, claimed.record.task_id


def cancelling(of: Table, task_id: str) -> Update:
    """Ask for the cancellation of a task of this table, if it is live."""
    live = of.c.task_id == indexable(task_id), of.c.finished_at.is_(None)
    return update(of).where(*live).values(cancel_requested=1, updated_at=now_micros())


def depth_statement(queues: Iterable[str] | None) -> Select[Any]:
    """The number of tasks of these queues (`None`: of all), and when the first of them became ready."""
    statement = select(_p.queue, func.count(), func.min(_p.since)).group_by(_p.queue)
    return statement if queues is None else statement.where(_p.queue.in_(sorted(queues)))


def _pass_on(ids: Iterable[str], owner: str) -> Update:
    change = update(tasks).where(tasks.c.task_id.in_(list(ids)))
    return change.values(instance=owner, live_owner=owner, token=tasks.c.token + 1, updated_at=now_micros())


def _forget(ids: Iterable[str]) -> Delete:
    return delete(pool).where(_p.task_id.in_(list(ids)))


def row_of(task: Pooled) -> dict[str, Any]:
    """The row of a task in the pool."""
    return {
        "task_id": task.task_id,
        "queue": indexable(task.queue),
        "rank_in_queue": -task.priority,
        "func_name": indexable(task.func_name),
        "seal": task.seal,
        "since": micros(task.since),
    }
