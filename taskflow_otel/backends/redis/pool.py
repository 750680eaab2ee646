"""The pool in Redis: for each queue a sorted set of the tasks that nobody owns, by priority and age."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from taskflow_otel.backends.pool import Claimed, News, PoolDepth, Pooled, Wanted
from taskflow_otel.backends.redis import codec
from taskflow_otel.backends.redis.fields import groups_of, pooled_fields
from taskflow_otel.backends.redis.texts import from_micros, to_json

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection


class WriteInOrder(Protocol):
    """Runs a guarded script; see `OrderedCalls`."""

    async def __call__(self, name: str, *args: str, lasting: bool = False) -> Any: ...


class RedisPoolStore:
    """See `PoolStore`.

    A claim looks past at most 2,000 tasks of a queue that its instance cannot run. The age of the oldest task is that
    of the oldest among the first 100 of its queue and the first of the lowest priority.
    """

    def __init__(self, write: WriteInOrder, connection: Callable[[], Connection]) -> None:
        self._write = write
        self._connection = connection
        self._unanswered: set[str] = set()
        """Owners whose latest claim got no answer."""
        self._unanswered_ones: set[tuple[str, str]] = set()
        """The same for the claims of one task: owner and task."""

    async def give(self, owner: str, tasks: Sequence[Pooled]) -> None:
        """See `PoolStore`."""
        await self._write("pool_give", owner, to_json([pooled_fields(task) for task in tasks]))

    async def claim(self, owner: str, wanted: Wanted, seals: Collection[str]) -> list[Claimed]:
        """See `PoolStore`."""
        if wanted.task_id == "":
            return []
        lost = owner in self._unanswered
        groups = to_json(groups_of(wanted.names, seals))
        self._unanswered.add(owner)
        of_all = "" if wanted.of_all is None else str(wanted.of_all)
        wants = wanted.queue, str(wanted.limit), groups, of_all, wanted.task_id or ""
        rows = await self._write("pool_claim", owner, f"{lost:d}", "", *wants)
        self._unanswered.discard(owner)
        return _claimed(rows)

    async def claim_one(self, owner: str, task_id: str) -> Claimed | None:
        """See `PoolStore`."""
        # The script understands an empty id as any task.
        if not task_id:
            return None
        call = owner, task_id
        lost = call in self._unanswered_ones
        self._unanswered_ones.discard(call)
        try:
            rows = await self._write("pool_claim", owner, f"{lost:d}", task_id)
        except BaseException:
            # Also after a cancellation: the server may have got the call.
            self._unanswered_ones.add(call)
            raise
        return next(iter(_claimed(rows)), None)

    async def depth(self, queues: Collection[str], *, others: bool = False) -> dict[str, PoolDepth]:
        """See `PoolStore`."""
        found = await self._connection().read("pool_depth", f"{others:d}", *queues)
        return {name: PoolDepth(number, from_micros(int(oldest))) for name, number, oldest in found}


class RedisBell:
    """See `PoolBell`."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    async def hear(self, news: News) -> None:
        """See `PoolBell`."""
        await self._connection().hear("pool_bell", news.all, news.heard)


def _claimed(rows: Sequence[Any]) -> list[Claimed]:
    claimed = []
    for row, since in rows:
        record = codec.load_record(row)
        claimed.append(Claimed(record, record.created_at if since == "0" else from_micros(int(since))))
    return claimed
