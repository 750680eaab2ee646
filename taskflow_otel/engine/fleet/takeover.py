"""Which instances are dead, and the takeover of their tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.losses import Losses
from taskflow_otel.engine.membership import Membership
from taskflow_otel.errors import BackendError
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.identity import process_gone
from taskflow_otel.runtime.service import Service
from taskflow_otel.runtime.throttled_report import Once

logger: logging.Logger = logging.getLogger("taskflow_otel.recovery")

_BATCH = 100
_MEMORY = timedelta(days=1)
"""How long a dead instance stays known: people look for what died in the night, and an instance that was only paused or
disconnected learns that it was declared dead."""
_REMEMBERED = 50
"""The most dead instances whose process is gone for sure: one that dies and starts again must not fill the ledger."""

UNKNOWN = (
    "%d stored tasks are named %r, which is not registered here: they stay stored, and run when the name is registered "
    "again"
)
SEALED = (
    "%d stored tasks named %r are encrypted with a key that this process does not have: they stay stored, and run once "
    "a process has the key: TaskManager(encrypt_args_key=...). After a rotation, keep the old key behind the new one."
)

Recover = Callable[[Sequence[tuple[TaskRecord, datetime]]], Awaitable[None]]
"""Decides about tasks taken over; the moment is the last heartbeat of the dead owner."""


class Takeover(Service):
    """Declares instances dead and takes their unfinished tasks over, at start and while running.

    An instance is dead at once if this host can see that its process is gone. Otherwise it is dead if its heartbeat
    has not changed for its whole lease. This process measures that on its monotonic clock, so wall clocks that differ
    cannot declare a living instance dead. Only time in which this process could look counts: after an outage of the
    backend, or a pause of this process, each instance has a whole lease for its next heartbeat.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        names: Callable[[], Iterable[str]],
        recover: Recover,
        seals: Collection[str] = (),
    ) -> None:
        # With longer pauses between looks, the time without a heartbeat would be counted from zero each time.
        super().__init__("takeover", interval, clock, longest_backoff=membership.instance.lease_seconds / 4)
        self._backend = backend
        self._clock = clock
        self._membership = membership
        self._names = names
        self._recover = recover
        self._seals = seals
        self._losses = Losses(backend)
        self._seen: dict[str, tuple[datetime, float]] = {}
        self._looked_at = float("-inf")
        self._unanswered = False
        self._reported = Once()
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """See `Service`."""
        self._one_at_a_time = asyncio.Lock()
        await super().start()

    async def tick(self) -> None:
        """Declare silent instances dead, and take their tasks over."""
        async with self._one_at_a_time:
            await self._look()

    async def _look(self) -> None:
        own = self._membership.instance
        gone: dict[str, Instance] = {}
        held: BackendError | None = None
        known = await self._backend.instances()
        now = self._clock.monotonic()
        watched = now - self._looked_at < own.lease_seconds / 2
        self._looked_at = now
        self._seen = {
            i.instance_id: self._seen[i.instance_id] for i in known if watched and i.instance_id in self._seen
        }
        for instance in known:
            if instance.instance_id == own.instance_id:
                continue
            try:
                if instance.state == InstanceState.ALIVE and not await self._declare_dead(instance, own):
                    continue
            except BackendError as exc:
                # A lock on the row of one dead instance must not delay the tasks of the others.
                held = exc
                continue
            gone[instance.instance_id] = instance
        if gone or self._unanswered:
            # A takeover without an answer may have given these tasks to this instance; no other one asks for them.
            self._unanswered = True
            await self._take_over(gone, own)
            self._unanswered = False
        if held is not None:
            raise held

    async def _declare_dead(self, instance: Instance, own: Instance) -> bool:
        if process_gone(instance, own.host):
            why = "its process is gone"
        elif self._silent_for(instance) >= instance.lease_seconds:
            why = f"no heartbeat for {instance.lease_seconds:g} s"
        else:
            return False
        if not await self._backend.declare_dead(instance.instance_id, instance.heartbeat_at):
            # Another instance was faster, or there was a heartbeat after all: the next round shows which.
            return False
        logger.warning("instance %s is dead (%s); its tasks are taken over", instance.instance_id, why)
        self._seen.pop(instance.instance_id, None)
        return True

    def _silent_for(self, instance: Instance) -> float:
        now = self._clock.monotonic()
        beat, since = self._seen.get(instance.instance_id, (None, now))
        if beat != instance.heartbeat_at:
            self._seen[instance.instance_id] = (instance.heartbeat_at, now)
            return 0.0
        return now - since

    async def _take_over(self, gone: dict[str, Instance], own: Instance) -> None:
        while True:
            names = list(self._names())
            taken = await self._backend.take_over(list(gone), own.instance_id, names, _BATCH, self._seals)
            losses = _by_owner(taken, gone)
            await self._recover([(record, _last_heartbeat(record, gone)) for record in taken])
            await self._losses.note(losses)
            if len(taken) < _BATCH:
                break
        left = await self._backend.orphan_names(list(gone))
        known = set(self._names())
        # The remaining rows of a known name are locked or sealed. A later round takes the locked ones.
        self._report({name: left[name] for name in left.keys() - known}, UNKNOWN)
        if not known.isdisjoint(left):
            sealed = await self._backend.orphan_names(list(gone), self._seals)
            self._report({name: sealed[name] for name in sealed.keys() & known}, SEALED)
        over = self._over(gone.values(), own)
        await self._backend.forget_instances(over)
        await self._losses.forget(over)

    def _report(self, left: dict[str, int], why: str) -> None:
        """Report once for each name why its tasks are not taken over."""
        for name, count in left.items():
            if self._reported.passes(f"{why} {name}"):
                logger.error(why, count, name)

    def _over(self, gone: Iterable[Instance], own: Instance) -> list[str]:
        """The instances that need not be known any more: those that stopped properly, and those that died long ago."""
        oldest = self._clock.now() - _MEMORY
        dead = [instance for instance in gone if instance.state != InstanceState.STOPPED]
        dead.sort(key=lambda instance: instance.heartbeat_at, reverse=True)
        kept = {
            instance.instance_id
            for place, instance in enumerate(dead)
            if instance.heartbeat_at >= oldest and (place < _REMEMBERED or not process_gone(instance, own.host))
        }
        return [instance.instance_id for instance in gone if instance.instance_id not in kept]


def _by_owner(taken: Iterable[TaskRecord], gone: Collection[str]) -> dict[str, list[TaskRecord]]:
    """Copies of these tasks by their dead owner, before anything is decided about them."""
    found: dict[str, list[TaskRecord]] = {}
    for record in taken:
        owner = record.timeline[-1].instance if record.timeline else ""
        if owner in gone:
            found.setdefault(owner, []).append(record.copy())
    return found


def _last_heartbeat(record: TaskRecord, gone: dict[str, Instance]) -> datetime:
    # The record already names its new owner; its last timeline entry names the instance that wrote it.
    previous = record.timeline[-1].instance if record.timeline else ""
    found = gone.get(previous)
    if found is None and not gone:
        return record.timeline[-1].timestamp
    beat = found.heartbeat_at if found else max(instance.heartbeat_at for instance in gone.values())
    return max(beat, record.start_time) if record.start_time else beat
