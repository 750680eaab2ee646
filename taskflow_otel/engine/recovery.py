"""Instances and what they leave behind: the heartbeat of this one, the takeover of dead ones."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.clock import Clock
from taskflow_otel.engine.identity import host_identity, new_instance_id, process_gone, process_started
from taskflow_otel.engine.service import Service
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import TaskRecord

logger = logging.getLogger("taskflow_otel.recovery")

_BATCH = 100
_MEMORY = timedelta(hours=1)
"""How long an instance that was declared dead stays known, so that it is told if it was only paused or cut off."""

Recover = Callable[[Sequence[tuple[TaskRecord, datetime]]], Awaitable[None]]
"""Decides what becomes of tasks taken over; the moment is the last heartbeat of the dead owner."""


def make_instance(clock: Clock, lease_seconds: float) -> Instance:
    """Describe this process as a new instance."""
    now, pid = clock.now(), os.getpid()
    return Instance(
        instance_id=new_instance_id(),
        host=host_identity(),
        pid=pid,
        process_started=process_started(pid),
        started_at=now,
        heartbeat_at=now,
        lease_seconds=lease_seconds,
    )


class Heartbeat(Service):
    """Who this process is among the instances: says that it lives, and goes on as another one if declared dead.

    `begin_anew`: lets go of what others own now; called with the new id. `introduce`: makes known whatever must be
    known of an instance before it changes anything in the ledger.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        lease_seconds: float,
        *,
        begin_anew: Callable[[str], Awaitable[None]],
        introduce: Callable[[], Awaitable[None]],
    ) -> None:
        # A backend that is back must hear of this instance before the others can take it for dead.
        super().__init__("heartbeat", interval, clock, longest_backoff=interval)
        self._backend = backend
        self._clock = clock
        self._lease = lease_seconds
        self._begin_anew = begin_anew
        self._introduce = introduce
        self._introduced = False
        self._heard_at = float("-inf")
        self._beating = asyncio.Lock()
        self.instance = make_instance(clock, lease_seconds)

    @property
    def lease_holds(self) -> bool:
        """Whether nobody can have taken this instance's tasks over: its last heartbeat is not older than its lease."""
        return self._clock.monotonic() - self._heard_at < self._lease

    async def enter(self) -> None:
        """Join the fleet, as a new instance."""
        self._beating = asyncio.Lock()
        self._renew()
        await self.sure()

    async def tick(self) -> None:
        """Write one heartbeat; learn that this instance was declared dead, and go on under a new id."""
        async with self._beating:
            if not await self._beat():
                logger.error(
                    "instance %s was declared dead (it was paused or cut off for longer than its lease of %g s); its "
                    "tasks belong to others now",
                    self.instance.instance_id,
                    self._lease,
                )
                self._renew()
                await self._begin_anew(self.instance.instance_id)
                await self._beat()
            if not self._introduced:
                await self._introduce()
                self._introduced = True

    async def sure(self) -> None:
        """Return once it is sure that this instance has not been declared dead, or goes on as another one.

        Whoever writes after a pause would otherwise write in the name of one whose accounts are closed.
        """
        if not (self.lease_holds and self._introduced):
            await self.tick()

    async def leave(self) -> None:
        """Write that this instance stops in order: what it leaves may be taken over at once."""
        await self._backend.beat(replace(self.instance, heartbeat_at=self._clock.now(), state="stopped"))

    def _renew(self) -> None:
        self.instance = make_instance(self._clock, self._lease)
        self._introduced = False

    async def _beat(self) -> bool:
        self.instance = replace(self.instance, heartbeat_at=self._clock.now())
        sent_at = self._clock.monotonic()
        known = await self._backend.beat(self.instance)
        if known:
            self._heard_at = sent_at
        return known


class Rescuer(Service):
    """Declares instances dead and takes their unfinished tasks over, at start and while running.

    An instance is dead at once when this host can see that its process is gone; otherwise when its heartbeat has
    not changed for its whole lease, measured on this process's monotonic clock, so that differing wall clocks
    of hosts cannot declare a living instance dead. Only time in which this process could look counts: after a
    backend's absence, or a pause of its own, everyone has a whole lease to give a sign of life.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        own: Callable[[], Instance],
        names: Callable[[], Iterable[str]],
        recover: Recover,
    ) -> None:
        super().__init__("rescuer", interval, clock)
        self._backend = backend
        self._clock = clock
        self._own = own
        self._names = names
        self._recover = recover
        self._seen: dict[str, tuple[datetime, float]] = {}
        self._looked_at = float("-inf")
        self._unanswered = False
        self._reported: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    async def tick(self) -> None:
        """Bury who is dead, take over what they left."""
        async with self._one_at_a_time:
            await self._look()

    async def _look(self) -> None:
        own = self._own()
        gone: dict[str, Instance] = {}
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
            if instance.state == "alive" and not await self._declare_dead(instance, own):
                continue
            gone[instance.instance_id] = instance
        if gone or self._unanswered:
            # What was taken over without an answer is this instance's already, and only it can ask for it again.
            self._unanswered = True
            await self._take_over(gone, own)
            self._unanswered = False

    async def _declare_dead(self, instance: Instance, own: Instance) -> bool:
        if instance.host == own.host and process_gone(instance.pid, instance.process_started):
            why = "its process is gone"
        elif self._silent_for(instance) >= instance.lease_seconds:
            why = f"no heartbeat for {instance.lease_seconds:g} s"
        else:
            return False
        if not await self._backend.bury(instance.instance_id, instance.heartbeat_at):
            # Another rescuer was faster, or it has given a sign of life after all: the next round shows which.
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
            taken = await self._backend.take_over(list(gone), own.instance_id, list(self._names()), _BATCH)
            await self._recover([(record, _last_heartbeat(record, gone)) for record in taken])
            if len(taken) < _BATCH:
                break
        for name, count in (await self._backend.orphan_names(list(gone))).items():
            if name not in self._reported:
                self._reported.add(name)
                logger.error(
                    "%d stored tasks are named %r, which is not registered here: they stay stored, and run when the "
                    "name is back",
                    count,
                    name,
                )
        await self._backend.forget_instances(
            [instance.instance_id for instance in gone.values() if self._over(instance, own)]
        )

    def _over(self, instance: Instance, own: Instance) -> bool:
        """Whether nothing can be heard any more of an instance that was declared dead."""
        if instance.state == "stopped" or self._clock.now() - instance.heartbeat_at > _MEMORY:
            return True
        return instance.host == own.host and process_gone(instance.pid, instance.process_started)


def _last_heartbeat(record: TaskRecord, gone: dict[str, Instance]) -> datetime:
    # The record names its new owner already; its last timeline entry names the instance that wrote it.
    previous = record.timeline[-1].instance if record.timeline else ""
    found = gone.get(previous)
    if found is None and not gone:
        return record.timeline[-1].timestamp
    beat = found.heartbeat_at if found else max(instance.heartbeat_at for instance in gone.values())
    return max(beat, record.start_time) if record.start_time else beat
