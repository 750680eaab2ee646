"""The instances as rows: their heartbeats, and how they are declared dead.

A batch locks the rows of its instances with a lock that only `declare_dead` excludes. So each batch is either committed
before its instance is declared dead, or refused: a process that was stopped inside a transaction cannot add anything
to what the others have counted already.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Delete, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from taskflow_otel.backends.sql.dialects import Dialect
from taskflow_otel.backends.sql.mapping import instance_values, micros
from taskflow_otel.backends.sql.schema import instances, tasks
from taskflow_otel.model.query import Instance
from taskflow_otel.model.vocabulary import InstanceState

ALIVE, DEAD, STOPPED = InstanceState.ALIVE.value, InstanceState.DEAD.value, InstanceState.STOPPED.value


async def beat(connection: AsyncConnection, dialect: Dialect, instance: Instance) -> bool:
    """Write a heartbeat; return `False` if the instance was declared dead."""
    values, c = instance_values(instance), instances.c
    alive = update(instances).where(c.instance_id == instance.instance_id, c.state != DEAD).values(values)
    if (await connection.execute(alive)).rowcount:
        return True
    first = dialect.insert_ignore(instances).values(values).execution_options(preserve_rowcount=True)
    return (await connection.execute(first)).rowcount == 1


async def declare_dead(connection: AsyncConnection, instance_id: str, seen_heartbeat: datetime) -> bool:
    """Declare an instance dead, unless one of its batches is about to be committed.

    That may be the batch of a stopped process, which the server ends after a time; nobody waits for it.
    """
    c = instances.c
    seen = c.instance_id == instance_id, c.heartbeat_at == micros(seen_heartbeat), c.state == ALIVE
    unlocked = select(c.instance_id).where(*seen).with_for_update(skip_locked=True)
    if (await connection.execute(unlocked)).first() is None:
        return False
    return (await connection.execute(update(instances).where(*seen).values(state=DEAD))).rowcount > 0


def forgetting(ids: Collection[str]) -> Delete:
    """Deletes dead or stopped instances without unfinished tasks."""
    c = instances.c
    idle = ~exists().where(tasks.c.live_owner == c.instance_id)
    return delete(instances).where(c.instance_id.in_(sorted(ids)), c.state.in_((DEAD, STOPPED)), idle)
