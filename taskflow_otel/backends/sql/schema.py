"""The tables, their indexes, and the migration of an older schema."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    MetaData,
    String,
    Table,
    and_,
    bindparam,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateColumn

from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import (
    DERIVED,
    ID,
    LONG,
    MICROS,
    NAME,
    STORED,
    WHOLE,
    WORD,
    failures_out,
)
from taskflow_otel.backends.sql.names import unnamed
from taskflow_otel.errors import SchemaVersionError
from taskflow_otel.model.failure import fingerprint_of, summary_of
from taskflow_otel.model.status import TaskStatus

SCHEMA_VERSION = 6

metadata: MetaData = MetaData()
# Binary comparison: the ids, keys and names 'a' and 'A' are different. Other row formats limit the indexes too much.
_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_row_format": "DYNAMIC",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

meta: Table = Table(
    "taskflow_meta", metadata, Column("name", NAME, primary_key=True), Column("value", LONG, nullable=False), **_OPTIONS
)

tasks: Table = Table(
    "taskflow_tasks",
    metadata,
    *(Column(f.name, f.type, primary_key=f.name == "task_id", nullable=f.nullable) for f in (*STORED, *DERIVED)),
    Column("updated_at", MICROS, nullable=False),
    **_OPTIONS,
)

task_logs: Table = Table(
    "taskflow_task_logs",
    metadata,
    Column("task_id", ID, primary_key=True),
    Column("seq", WHOLE, primary_key=True, autoincrement=False),
    Column("logged_at", MICROS, nullable=False),
    Column("level", WORD, nullable=False),
    Column("message", LONG, nullable=False),
    Column("attempt", WHOLE, nullable=False),
    Column("extra", LONG),
    **_OPTIONS,
)

# In the form of `taskflow_otel.model.spans`. A table of its own: most tasks have none, and no list of tasks reads them.
task_spans: Table = Table(
    "taskflow_task_spans",
    metadata,
    Column("task_id", ID, primary_key=True),
    Column("attempt", WHOLE, primary_key=True, autoincrement=False),
    Column("spans", LONG, nullable=False),
    **_OPTIONS,
)

task_tags: Table = Table(
    "taskflow_task_tags",
    metadata,
    Column("task_id", ID, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("value", NAME, nullable=False),
    Column("created_at", MICROS, nullable=False),
    **_OPTIONS,
)

instances: Table = Table(
    "taskflow_instances",
    metadata,
    Column("instance_id", NAME, primary_key=True),
    Column("host", LONG, nullable=False),
    Column("pid", MICROS, nullable=False),
    Column("process_started", LONG, nullable=False),
    Column("started_at", MICROS, nullable=False),
    Column("heartbeat_at", MICROS, nullable=False),
    Column("lease_seconds", Double(), nullable=False),
    Column("state", WORD, nullable=False),
    **_OPTIONS,
)

# The number of finished tasks of each kind is the sum over `shard`. A finished task is never rewritten, so the number
# changes only when a task finishes or is deleted. Writers of different shards do not wait for each other.
finished_counts: Table = Table(
    "taskflow_finished_counts",
    metadata,
    Column("func_name", NAME, primary_key=True),
    Column("queue", NAME, primary_key=True),
    Column("source", WORD, primary_key=True),
    Column("status", WORD, primary_key=True),
    Column("shard", WHOLE, primary_key=True, autoincrement=False),
    Column("tasks", MICROS, nullable=False),
    Column("timed", MICROS, nullable=False),
    Column("duration_micros", MICROS, nullable=False),
    **_OPTIONS,
)

# What finished in each minute and in each hour: the sum over `shard`, as above. Rows are deleted by their age alone.
figures: Table = Table(
    "taskflow_figures",
    metadata,
    Column("span", WORD, primary_key=True),
    Column("slot", MICROS, primary_key=True, autoincrement=False),
    Column("func_name", NAME, primary_key=True),
    Column("kind", WORD, primary_key=True),
    Column("bucket", WHOLE, primary_key=True, autoincrement=False),
    Column("shard", WHOLE, primary_key=True, autoincrement=False),
    Column("tasks", MICROS, nullable=False),
    Column("micros", MICROS, nullable=False),
    **_OPTIONS,
)

# Compared byte by byte in every database, so that a prefix is a range of the index.
_ORDERED = String(255).with_variant(String(255, collation="C"), "postgresql")

used_once: Table = Table(
    "taskflow_used_once",
    metadata,
    Column("name", _ORDERED, primary_key=True),
    Column("task_id", ID, nullable=False),
    **_OPTIONS,
)

settings: Table = Table(
    "taskflow_settings",
    metadata,
    Column("name", _ORDERED, primary_key=True),
    Column("value", LONG, nullable=False),
    **_OPTIONS,
)

audit: Table = Table(
    "taskflow_audit",
    metadata,
    Column("entry_id", ID, primary_key=True),
    Column("at", MICROS, nullable=False),
    Column("actor", NAME),
    Column("method", WORD),
    Column("client", NAME),
    Column("action", NAME, nullable=False),
    Column("route", LONG, nullable=False),
    Column("outcome", WORD, nullable=False),
    Column("status", WHOLE, nullable=False),
    Column("target", LONG),
    Column("task_id", ID),
    Column("operation_id", ID),
    Column("reason", LONG),
    Column("detail", LONG),
    Column("instance", NAME, nullable=False),
    Column("times", WHOLE, nullable=False),
    **_OPTIONS,
)

operations: Table = Table(
    "taskflow_operations",
    metadata,
    Column("operation_id", ID, primary_key=True),
    Column("kind", WORD, nullable=False),
    Column("status", WORD, nullable=False),
    Column("ended_at", MICROS),
    Column("client_key", NAME),
    Column("token", MICROS, nullable=False),
    Column("doc", LONG, nullable=False),
    **_OPTIONS,
)

operation_items: Table = Table(
    "taskflow_operation_items",
    metadata,
    Column("operation_id", ID, primary_key=True),
    Column("seq", WHOLE, primary_key=True, autoincrement=False),
    Column("task_id", ID, nullable=False),
    Column("outcome", WORD),
    Column("new_task_id", ID),
    Column("detail", LONG),
    **_OPTIONS,
)

# The tasks that nobody owns, in the order of the claims. A table of its own: other tasks have no part in its cost.
pool: Table = Table(
    "taskflow_pool",
    metadata,
    Column("task_id", ID, primary_key=True),
    Column("queue", NAME, nullable=False),
    Column("rank_in_queue", WHOLE, nullable=False),
    Column("func_name", NAME, nullable=False),
    Column("seal", NAME),
    Column("since", MICROS, nullable=False),
    **_OPTIONS,
)


def _index(
    name: str, *columns: Column[object], where: ColumnElement[bool] | None = None, unique: bool = False
) -> Index:
    return Index(f"taskflow_{name}", *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_WITH_FAILURES = 5
"""The version since which the fingerprint of a failure is stored."""
_TOLD_AT_ONCE = 500
WENT_WRONG = (TaskStatus.FAILED, TaskStatus.INTERRUPTED, TaskStatus.REJECTED)
"""The states of tasks that went wrong."""

_c = tasks.c
_GONE_WELL = (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS)
# One comparison for each value: for a list, SQLite would build a table at each written row. Literals, because with
# parameters a database could not know that the index has every such row.
GONE_WRONG = and_(*(_c.status != literal_column(f"'{status}'") for status in _GONE_WELL))
"""Few tasks of a name fail, and people search for these; indexing the others would make each write slower."""
# One index with `created_at` for each filter of a page; ids of the same microsecond are sorted during the walk.
_index("tasks_by_age", _c.created_at)
# With the run time, counting over a time range needs only this index.
_index("tasks_by_status", _c.status, _c.created_at, _c.duration)
_index("tasks_by_name", _c.func_name, _c.created_at)
_index("tasks_gone_wrong", _c.func_name, _c.status, _c.created_at, where=GONE_WRONG)
_index("tasks_by_queue", _c.queue, _c.created_at)
_index("tasks_by_source", _c.source, _c.created_at)
_index("tasks_by_trace", _c.trace_id, _c.created_at, where=_c.trace_id.is_not(None))
_index("tasks_by_tag", task_tags.c.name, task_tags.c.value, task_tags.c.created_at)
_index("tasks_by_tag_name", task_tags.c.name, task_tags.c.created_at)
_index("tasks_active_key", _c.active_key, where=_c.active_key.is_not(None), unique=True)
_index("tasks_live", _c.live_owner, _c.created_at, where=_c.live_owner.is_not(None))
_index("tasks_to_cancel", _c.cancel_requested, _c.live_owner, where=_c.cancel_requested == text("1"))
_index("tasks_by_change", _c.updated_at)
# With all that groups of failures are counted by, so that counting them reads nothing else.
_index(
    "tasks_by_fingerprint",
    *(_c.fingerprint, _c.created_at, _c.status, _c.finished_at, _c.retried_by, _c.task_id),
    where=_c.fingerprint.is_not(None),
)
_index("tasks_by_end", _c.finished_at, where=_c.finished_at.is_not(None))
_a = audit.c
_index("audit_by_age", _a.at, _a.entry_id)
_index("audit_by_actor", _a.actor, _a.at, _a.entry_id)
_index("audit_by_action", _a.action, _a.at, _a.entry_id)
_index("audit_by_outcome", _a.outcome, _a.at, _a.entry_id)
_index("audit_by_task", _a.task_id, _a.at, _a.entry_id, where=_a.task_id.is_not(None))
_index("audit_by_operation", _a.operation_id, where=_a.operation_id.is_not(None))
_o = operations.c
_index("operations_by_kind", _o.kind, _o.operation_id)
_index("operations_by_status", _o.status, _o.operation_id)
_index("operations_by_end", _o.ended_at, _o.operation_id)
_index("operations_by_key", _o.client_key, where=_o.client_key.is_not(None), unique=True)
_index("operations_of_task", operation_items.c.task_id, operation_items.c.operation_id)
_index("pool_by_rank", pool.c.queue, pool.c.rank_in_queue, pool.c.task_id)

Migration = Callable[[AsyncConnection], Awaitable[None]]


async def _only_add(_: AsyncConnection) -> None:
    """`_complete` creates the missing tables, columns and indexes."""


MIGRATIONS: Sequence[Migration] = (_only_add, _only_add, _only_add, _only_add, _only_add)
"""The step at index `n` migrates a schema from version `n + 1` to `n + 2`."""


async def prepare(
    connection: AsyncConnection,
    dialect: Dialect,
    where: str,
    *,
    version: int = SCHEMA_VERSION,
    migrations: Sequence[Migration] = MIGRATIONS,
    migrating: Callable[[], None] = lambda: None,
    named: Callable[[str], str] = unnamed,
) -> None:
    """Create the schema, migrate an older one, or complete one whose creation was interrupted.

    If several processes do this at once, all but one wait. `migrating` is called before the first step, which may take
    long for many tasks. Raises `SchemaVersionError` if the stored schema is newer.
    """
    async with dialect.schema_lock(connection):
        found = await stored_version(connection, named)
        if found is not None and found > version:
            raise SchemaVersionError(where, found, version)
        if found is not None and found < version:
            migrating()
            for step in migrations[found - 1 : version - 1]:
                await step(connection)
        await connection.run_sync(_complete, named, migrating)
        if found is not None and found < _WITH_FAILURES:
            await _tell_failures(connection)
        if found is None:
            await connection.execute(meta.insert().values(name="schema_version", value=str(version)))
        elif found < version:
            update = meta.update().where(meta.c.name == "schema_version").values(value=str(version))
            await connection.execute(update)


def _complete(connection: Connection, named: Callable[[str], str], migrating: Callable[[], None]) -> None:
    """Create each missing table, column and index.

    In a database where each change of the schema commits, a killed start leaves only some of them.
    """
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        if named(table.name) not in there:
            table.create(connection, checkfirst=False)
            continue
        columns = {column["name"] for column in inspector.get_columns(named(table.name))}
        for column in table.columns:
            if column.name not in columns:
                migrating()
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {added}")
        known = {index["name"] for index in inspector.get_indexes(named(table.name))}
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if named(str(index.name)) not in known:
                migrating()
                index.create(connection, checkfirst=False)


async def _tell_failures(connection: AsyncConnection) -> None:
    """Write the fingerprints of tasks that went wrong under an earlier version; a step that was killed is repeated."""
    c = tasks.c
    wanted = c.task_id, c.func_name, c.status, c.attempt, c.reason, c.error_type, c.error, c.stacktrace
    change = (
        tasks.update()
        .where(c.task_id == bindparam("of"))
        .values(fingerprint=bindparam("told"), failures=bindparam("kept"))
    )
    for status in WENT_WRONG:
        last = ""
        while True:
            some = select(*wanted).where(c.status == status.value, c.task_id > last).order_by(c.task_id)
            rows = (await connection.execute(some.limit(_TOLD_AT_ONCE))).all()
            if not rows:
                break
            last = rows[-1][0]
            told = []
            for task_id, name, _, attempt, reason, error_type, error, stacktrace in rows:
                kind = fingerprint_of(
                    name, status, reason=reason, error_type=error_type, error=error, stacktrace=stacktrace
                )
                kept = summary_of(attempt, kind, error_type=error_type, error=error, stacktrace=stacktrace)
                told.append({"of": task_id, "told": kind, "kept": failures_out([kept])})
            await connection.execute(change, told)


async def stored_version(connection: AsyncConnection, named: Callable[[str], str] = unnamed) -> int | None:
    """The version of the stored schema, or `None` if there is no schema yet."""
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(named(meta.name))):
        return None
    stored = await connection.scalar(select(meta.c.value).where(meta.c.name == "schema_version"))
    return None if stored is None else int(stored)
