"""The pool in PostgreSQL: a gift that waits for the server once, and a claim that waits twice.

The ordinary way waits for each of its steps: a ping, the beginning and its time limits, every statement, the
notification, and the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager

from taskflow_otel.backends.pool import POOL, Claimed, Pooled, Wanted
from taskflow_otel.backends.sql import postgres_batches
from taskflow_otel.backends.sql.audit import Read, Write
from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import indexable
from taskflow_otel.backends.sql.pool import SqlPoolStore, claimed_of, row_of
from taskflow_otel.backends.sql.postgres_batches import BEGIN, Flight, NotAppliedError
from taskflow_otel.backends.sql.queries import RECORD_COLUMNS
from taskflow_otel.backends.sql.schema import pool
from taskflow_otel.backends.sql.statements import now_micros

_NAMES = [column.name for column in pool.columns]
_COLUMNS = ", ".join(_NAMES)
_ARRAYS = ", ".join("%s::bigint[]" if name in {"rank_in_queue", "since"} else "%s::varchar[]" for name in _NAMES)
_RECORD = ", ".join(column.name for column in RECORD_COLUMNS)
GIVE: str = f"""
WITH locked AS (
  SELECT task_id FROM taskflow_tasks WHERE task_id = ANY(%s) AND instance = %s AND finished_at IS NULL
  ORDER BY task_id FOR UPDATE
), moved AS (
  UPDATE taskflow_tasks SET instance = '{POOL}', live_owner = '{POOL}', token = token + 1, updated_at = %s
  WHERE task_id = ANY(ARRAY(SELECT task_id FROM locked)) RETURNING task_id
)
INSERT INTO taskflow_pool ({_COLUMNS})
SELECT given.* FROM unnest({_ARRAYS}) AS given ({_COLUMNS}) JOIN moved ON moved.task_id = given.task_id
ON CONFLICT DO NOTHING
"""  # noqa: S608  # nosec B608  # names of columns, and the id of the pool
"""Parameters: the ids, their owner, the time, and an array for each column of the pool. The rows are locked in the
order of all writers."""
CLAIM: str = f"""
WITH found AS (
  SELECT task_id, since FROM taskflow_pool
  WHERE queue = %s AND func_name = ANY(%s) AND (seal IS NULL OR seal = ANY(%s))
    AND (%s::varchar IS NULL OR task_id = %s)
  ORDER BY rank_in_queue, task_id LIMIT %s FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM taskflow_pool WHERE task_id = ANY(ARRAY(SELECT task_id FROM found))
)
UPDATE taskflow_tasks SET instance = %s, live_owner = %s, token = token + 1, updated_at = %s
WHERE task_id = ANY(ARRAY(SELECT task_id FROM found)) AND coalesce(live_owner, '') = '{POOL}'
RETURNING {_RECORD}, (SELECT found.since FROM found WHERE found.task_id = taskflow_tasks.task_id)
"""  # noqa: S608  # nosec B608  # names of columns, and the id of the pool
"""Like `claiming_statement`, in one text. Parameters: the queue, the names, the seals, the only wanted task or null
(twice), the limit, the new owner (twice), the time."""


class PostgresPoolStore(SqlPoolStore):
    """See `SqlPoolStore`. `flight` is a transaction of few messages; `guard` translates the errors of the driver."""

    def __init__(
        self,
        read: Read,
        write: Write,
        dialect: Dialect,
        named: Callable[[str], str],
        flight: Callable[[], AbstractAsyncContextManager[Flight]],
        guard: Callable[[str], AbstractAsyncContextManager[Callable[[], None]]],
    ) -> None:
        super().__init__(read, write, dialect, named)
        self._flight = flight
        self._guard = guard
        self._give, self._claim = named(GIVE), named(CLAIM)
        self._channel = named(pool.name)

    async def give(self, owner: str, given: Sequence[Pooled]) -> None:
        """See `PoolStore`."""
        rows = {task.task_id: row_of(task) for task in given}
        ids = sorted(rows)
        columns = [[rows[task_id][name] for task_id in ids] for name in _NAMES]
        async with self._guard("giving tasks to the pool"):
            try:
                async with self._flight() as flight:
                    await postgres_batches.ask(
                        flight.driver,
                        *_begin(flight),
                        (self._give, [ids, owner, now_micros(), *columns]),
                        ("SELECT pg_notify(%s, '')", [self._channel]),
                        ("COMMIT", []),
                    )
                    return
            except NotAppliedError:
                pass
        # Harmless, also if the connection broke after the commit.
        await super().give(owner, given)

    async def claim(self, owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        """See `PoolStore`."""
        if wanted.of_all is not None or self._unanswered.get(owner):
            return await super().claim(owner, wanted, seals)
        names = sorted(map(indexable, wanted.names))
        only = None if wanted.task_id is None else indexable(wanted.task_id)
        of = [indexable(wanted.queue), names, sorted(seals), only, only, wanted.limit]
        async with self._guard("claiming from the pool"):
            try:
                async with self._flight() as flight:
                    answers = await postgres_batches.ask(
                        flight.driver, *_begin(flight), (self._claim, [*of, owner, owner, now_micros()])
                    )
                    claimed = claimed_of(await answers[-1].fetchall())
                    # Without a commit, nothing of this has happened.
                    self._unanswered[owner] = {one.record.task_id: one.record.token for one in claimed}
                    flight.committing = True
                    await flight.driver.execute("COMMIT")
                    del self._unanswered[owner]
                    return claimed
            except NotAppliedError:
                self._unanswered.pop(owner, None)
        return await super().claim(owner, wanted, seals)


def _begin(flight: Flight) -> tuple[tuple[str, Sequence[object]], tuple[str, Sequence[object]]]:
    return (BEGIN, []), (postgres_batches.settings(flight.limits, off=()), [])
