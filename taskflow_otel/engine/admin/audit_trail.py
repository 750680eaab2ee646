"""The audit of this process: each entry is published, logged, and stored where all instances find it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace as with_operations

from msgspec.structs import replace

from taskflow_otel.backends.admin import AuditStore, OperationStore
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.admin.repeats import Repeats
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.errors import BackendError
from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.vocabulary import AuditOutcome, EngineState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")
_audit_logger = logging.getLogger("taskflow_otel.audit")

_MAX_HELD = 1_000
_BATCH = 100
_OPERATIONS = 100
"""Bulk operations of one task whose entries are found."""
_PATIENCE = 1.0
"""Seconds for which an answer waits until its entry is stored."""
_NAME, _TEXT = 200, 1_000
_LONGEST = {"actor": _NAME, "method": 30, "client": 100, "action": 60, "route": _TEXT, "target": _TEXT, "task_id": 64}


class AuditTrail(Service):
    """Takes the entries of this process, and writes them together; at most `_MAX_HELD` wait for the backend.

    An entry that finds no room is counted, and a later entry has the number. `instance_id` returns the id of this
    process now.
    """

    def __init__(
        self,
        store: AuditStore,
        operations: OperationStore,
        bus: ObserverBus,
        clock: Clock,
        interval: float,
        life: Life,
        instance_id: Callable[[], str],
    ) -> None:
        super().__init__("audit", interval, clock)
        self._store = store
        self._operations = operations
        self._bus = bus
        self._clock = clock
        self.life = life
        self._instance_id = instance_id
        self._held: deque[AuditEntry] = deque()
        self._repeats = Repeats(clock)
        self._unstored = 0
        self._failing = False
        self._writing = asyncio.Lock()
        self.lost: int = 0
        """How many entries were not stored, since the start of the process."""

    @at_home
    async def record(self, entry: AuditEntry, *, wait: bool = True) -> None:
        """Take an entry. With `wait`, return once it is stored, at the latest after a second: then it is stored later.

        Its texts are shortened and made plain here; `instance` is set here. Never raises.
        """
        entry = made_plain(replace(entry, instance=self._instance_id()))
        if entry.actor is None and entry.outcome != AuditOutcome.DONE and not self._repeats.passes(entry):
            return
        self._take(entry)
        # While the backend fails, the service tries it: an answer must not wait for that too.
        if wait and self._open and not self._failing:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._write()
            except (TimeoutError, BackendError) as exc:
                late = "the backend is slow" if isinstance(exc, TimeoutError) else exc
                logger.warning("an entry of the audit is stored later: %s", late)

    @at_home
    async def page(self, query: AuditQuery) -> AuditPage:
        """One page of the audit of all instances, newest first."""
        await self._write()
        if query.task_id is not None:
            query = with_operations(query, operations=tuple(await self._operations.of_task(query.task_id, _OPERATIONS)))
        return await self._store.page(query)

    async def start(self) -> None:
        """See `Service`."""
        self._writing = asyncio.Lock()
        await super().start()

    async def tick(self) -> None:
        """Store what waits."""
        for entry in self._repeats.summed_up():
            self._take(entry)
        await self._write()

    async def stop(self) -> None:
        """Stop, and store what waits."""
        await super().stop()
        for entry in self._repeats.summed_up(at_once=True):
            self._take(entry)
        try:
            await self._write()
        except BackendError as exc:
            logger.error("%d entries of the audit could not be stored: %s", len(self._held), exc)

    @property
    def _open(self) -> bool:
        return self.life.state in {EngineState.RUNNING, EngineState.DRAINING}

    def _take(self, entry: AuditEntry) -> None:
        _log(entry)
        self._bus.audit(entry)
        if len(self._held) >= _MAX_HELD:
            self._unstored += entry.times
            self.lost += entry.times
            return
        self._held.append(entry)

    async def _write(self) -> None:
        async with self._writing:
            try:
                while self._held:
                    await self._write_some([self._held[n] for n in range(min(_BATCH, len(self._held)))])
            except BaseException:
                self._failing = True
                raise
            self._failing = False

    async def _write_some(self, batch: list[AuditEntry]) -> None:
        try:
            await self._store.add(batch)
        except BackendError as exc:
            if exc.transient:
                raise
            if len(batch) > 1:
                # One of them must not keep the others from being stored.
                for entry in batch:
                    await self._write_some([entry])
                return
            self._unstored += batch[0].times
            self.lost += batch[0].times
            logger.error("the backend refuses an entry of the audit for good: %s", exc)
        # Only now: what is interrupted is stored again, under the same ids.
        for _ in batch:
            self._held.popleft()
        if self._unstored and len(self._held) < _MAX_HELD:
            self._held.append(self._gap(batch[-1].instance))
            self._unstored = 0

    def _gap(self, instance: str) -> AuditEntry:
        """An entry that says how many are missing."""
        return AuditEntry(
            entry_id=new_task_id(),
            at=self._clock.now(),
            actor=None,
            method=None,
            client=None,
            action="audit",
            route="",
            outcome=AuditOutcome.FAILED.value,
            status=503,
            detail="entries are missing: the backend did not take them, and more than this process can hold waited",
            instance=instance,
            times=self._unstored,
        )


def made_plain(entry: AuditEntry) -> AuditEntry:
    """The entry with plain and short texts, as it is stored."""
    texts = {}
    for name in entry.__struct_fields__:
        value = getattr(entry, name)
        if isinstance(value, str):
            limit = _LONGEST.get(name, _TEXT)
            texts[name] = (
                value if value.isascii() and len(value) <= limit and "\x00" not in value else _cut(value, limit)
            )
    return replace(entry, **texts)


def _cut(text: str, limit: int) -> str:
    text = plain_text(text[: limit + 1], limit + 1)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _log(entry: AuditEntry) -> None:
    """Write an entry to the stdlib logger. Names come from outside, so they are quoted."""
    name = entry.actor or "anonymous"
    about = entry.task_id or entry.target or entry.operation_id or ""
    _audit_logger.info(
        "%r %s %r: %s%s",
        name,
        entry.action,
        about,
        entry.outcome,
        f" ({entry.detail!r})" if entry.detail else "",
        extra={
            "actor": name,
            "action": entry.action,
            "target": about,
            "outcome": entry.outcome,
            "status": entry.status,
            "client": entry.client or "unknown",
            "audit": entry,
        },
    )
