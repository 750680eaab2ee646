"""Writes the backlog, one transaction after the other, with retries that lose nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import assert_never

from taskflow_otel.backends.base import AppendLogs, Applied, Backend, Change, Outcome, Update
from taskflow_otel.engine.ledger.backend_health import BackendHealth, Observe
from taskflow_otel.engine.ledger.backlog import Backlog
from taskflow_otel.engine.ledger.batch import Batch, Commit, Item, Lines, Note, Spans, allowed, judged, reduce
from taskflow_otel.engine.ledger.refused_batch import sort_out
from taskflow_otel.engine.membership import Membership
from taskflow_otel.errors import BackendError, DeclaredDeadError
from taskflow_otel.model.vocabulary import OperationOutcome
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.retrying import BACKEND

logger: logging.Logger = logging.getLogger("taskflow_otel.ledger")

_STALE = Applied(Outcome.STALE)
_OK, _ERROR = OperationOutcome.OK.value, OperationOutcome.ERROR.value


class Writer:
    """The one writer. `late` is called with each change that was applied after its caller gave up."""

    def __init__(
        self,
        backlog: Backlog,
        backend: Backend,
        health: BackendHealth,
        clock: Clock,
        membership: Membership,
        *,
        observe: Observe,
        late: Callable[[Change, Applied], None],
    ) -> None:
        self._backlog = backlog
        self._backend = backend
        self._health = health
        self._clock = clock
        self._membership = membership
        self._observe = observe
        self._late = late
        self._closing = False
        self._began = 0.0
        self._apply_began = 0.0
        self.writing: bool = False
        """A transaction is running."""

    def open(self) -> None:
        """Prepare to `run` again."""
        self._backlog.open()
        self._closing = self.writing = False

    def close(self) -> None:
        """Let `run` return once there is nothing to write, or the backend fails."""
        self._closing = True
        self._backlog.wake.set()

    @property
    def busy_for(self) -> float:
        """Seconds since the current transaction began."""
        return self._clock.monotonic() - self._began if self.writing else 0.0

    async def run(self) -> None:
        """Write until `close` is called."""
        # Not with `retrying`: new changes may have come after a failure, so each try writes another batch.
        failures = 0
        wake = self._backlog.wake
        while True:
            batch = self._backlog.next_batch()
            if batch is None:
                if self._closing:
                    return
                wake.clear()
                await wake.wait()
                continue
            self.writing, self._began = True, self._clock.monotonic()
            written = await self._write_once(batch)
            self.writing = False
            if written:
                failures = 0
                # The memory backend never yields to the event loop.
                await asyncio.sleep(0)
            else:
                if self._closing:
                    return
                failures += 1
                await self._clock.sleep(BACKEND.after(failures))

    async def _write_once(self, batch: Batch) -> bool:
        """Write one transaction; return `False` if the backend failed and the same work must be tried again."""
        batch.items = allowed(batch.items)
        self._backlog.in_hand = [item for item in batch.items if type(item) is Commit]
        try:
            await self._membership.ensure_lease()
        except Exception as exc:
            self._health.failed(exc)
            self._backlog.put_back(batch)
            self._backlog.in_hand = []
            return False
        try:
            results = await self._apply([item.change for item in batch.items])
        except DeclaredDeadError as exc:
            try:
                await self._leave_to_others(batch, exc.instance_id)
            except Exception as failure:
                written = await self._after_failure(failure, batch)
            else:
                return await self._write_once(batch)
        except Exception as exc:
            written = await self._after_failure(exc, batch)
        else:
            self._accept(batch.items, results)
            written = True
        self._backlog.in_hand = []
        if written:
            self._backlog.written(batch)
        return written

    async def _leave_to_others(self, batch: Batch, dead: str) -> None:
        """Take out of a refused batch what belongs to others now, because this process was declared dead."""
        await self._membership.declared_dead(dead)
        lost, batch.items = await sort_out(batch.items, dead, self._membership.instance.instance_id, self._backend)
        self._accept(lost, [_STALE] * len(lost))

    async def _apply(self, changes: list[Change]) -> list[Applied]:
        if not changes:
            return []
        started = self._apply_began = self._clock.monotonic()
        outcome = _ERROR
        try:
            results = await self._backend.apply(changes)
            outcome = _OK
        finally:
            self._observe(self._backend.name, "apply", outcome, self._clock.monotonic() - started)
        self._health.answered()
        return results

    def _accept(self, items: Sequence[Item], results: Sequence[Applied]) -> None:
        # Not a `match`, which takes twice as long for each of the items.
        for item, result in zip(items, results, strict=True):
            if isinstance(item, Commit):
                if item.future.done():
                    self._late(item.change, result)
                else:
                    item.future.set_result(result)
            elif isinstance(item, Note):
                item.task.stored = True
                if result.outcome is _STALE.outcome:
                    logger.warning(
                        "history of task %s was refused: another instance owns it now, or has deleted it",
                        item.task_id,
                    )
            elif not isinstance(item, (Lines, Spans)):
                assert_never(item)

    async def _after_failure(self, exc: Exception, batch: Batch) -> bool:
        """Divide the batch if a part of it may succeed; return `False` if all of it must be tried again."""
        error = judged(exc)
        # A change whose caller gave up may have been applied: it stays until its outcome is known.
        for item in batch.items:
            if isinstance(item, Commit):
                item.tried = True
        if error is None or not error.divisible:
            self._health.failed(exc)
            self._backlog.put_back(batch)
            return False
        if error.transient:
            self._health.held(error, self._apply_began)
        if not self._backlog.divide(batch):
            await self._one_by_one(batch, error)
        return True

    async def _one_by_one(self, batch: Batch, error: BackendError) -> None:
        """Write the changes of one task one after the other, so that only the faulty one fails."""
        items, known = deque(batch.items), error if len(batch.items) == 1 else None
        while items:
            item = items[0]
            try:
                if known is not None:
                    raise known
                self._accept([item], await self._apply([item.change]))
            except Exception as exc:
                known, verdict = None, judged(exc)
                if verdict is None or verdict.transient:
                    self._set_apart(batch, list(items), exc)
                    return
                rest = self._refused(item, verdict)
                if rest is None:
                    self._set_apart(batch, list(items), verdict)
                    return
                items.popleft()
                items.extendleft(reversed(rest))
            else:
                items.popleft()

    def _set_apart(self, batch: Batch, items: list[Item], exc: Exception) -> None:
        if not batch.failures:
            logger.warning(
                "the changes of task %s wait to be stored; other tasks do not wait for them: %s", items[0].task_id, exc
            )
        self._backlog.set_apart(items, batch.failures + 1)

    def _refused(self, item: Item, error: BackendError) -> list[Item] | None:
        """What still can be written of a change that the backend refuses for good; `None`: try it again for ever."""
        match item:
            case Commit(Update(record)):
                if not reduce(item, str(error)):
                    return None
                logger.error("the state of task %s is stored without its texts: %s", record.task_id, error)
                return [item]
            case Commit(future=future):
                if not future.done():
                    future.set_exception(error)
            case Note(task):
                self._health.lost(1, task.record.task_id, error)
            case Lines(log) if len(log.entries) > 1:
                middle = len(log.entries) // 2
                return [Lines(AppendLogs(log.task_id, part)) for part in (log.entries[:middle], log.entries[middle:])]
            case Lines(change) | Spans(change):
                self._health.lost(1, change.task_id, error)
            case _:
                assert_never(item)
        return []
