"""The identity of this process among the instances, and its heartbeat."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from taskflow_otel.backends.base import Backend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import Instance
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.deadline import within
from taskflow_otel.runtime.identity import host_identity, new_instance_id, process_started
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.recovery")


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
    """Holds the identity of this process and writes its heartbeat; takes a new identity if it was declared dead.

    One heartbeat may take a third of the lease, so that there is time to try again after a dead connection.
    """

    def __init__(self, backend: Backend, clock: Clock, interval: float, lease_seconds: float) -> None:
        # When the backend is back, this instance must write a heartbeat before the others can declare it dead.
        super().__init__("heartbeat", interval, clock, longest_backoff=interval)
        self._backend = backend
        self._clock = clock
        self._lease = lease_seconds
        self._introduced = False
        self.heard_at: float = float("-inf")
        """When the latest heartbeat was sent that the backend has confirmed, by the monotonic clock."""
        self._beating = asyncio.Lock()
        self._rejoin: Callable[[str], Awaitable[None]] = _nothing
        self._introduce: Callable[[], Awaitable[None]] = _nothing
        self.instance: Instance = make_instance(clock, lease_seconds)

    def connect(self, *, rejoin: Callable[[str], Awaitable[None]], introduce: Callable[[], Awaitable[None]]) -> None:
        """Connect the parts that are built upon it.

        `rejoin` gives up the tasks that others own now; it is called with the new id. `introduce` stores what must be
        known of an instance before it changes anything in the ledger.
        """
        self._rejoin = rejoin
        self._introduce = introduce

    @property
    def lease_holds(self) -> bool:
        """Whether no other instance can own its tasks: the last heartbeat is not older than the lease."""
        return self._clock.monotonic() - self.heard_at < self._lease

    async def join(self) -> None:
        """Join the fleet, as a new instance."""
        self._beating = asyncio.Lock()
        self._renew()
        await self.ensure_lease()

    async def tick(self) -> None:
        """Write one heartbeat. If this instance was declared dead, join again under a new id."""
        async with self._beating:
            if not await self._beat():
                await self._become_another()
            await self._be_introduced()

    async def ensure_lease(self) -> None:
        """Return once this instance is certainly not declared dead, or has a new id.

        Without this, a process could write after a pause under the id of a dead instance, whose counts are final.
        """
        if not (self.lease_holds and self._introduced):
            await self.tick()

    async def declared_dead(self, instance_id: str) -> None:
        """The backend says that this id was declared dead: join under a new one, unless that has happened already."""
        async with self._beating:
            if self.instance.instance_id == instance_id:
                await self._become_another()
                await self._be_introduced()

    async def leave(self) -> None:
        """Write that this instance stops properly: others may take its tasks over at once."""
        await self._backend.beat(
            replace(self.instance, heartbeat_at=self._clock.now(), state=InstanceState.STOPPED.value)
        )

    async def _become_another(self) -> None:
        logger.error(
            "instance %s was declared dead (it was paused or disconnected for longer than its lease of %g s); "
            "its tasks belong to others now",
            self.instance.instance_id,
            self._lease,
        )
        self._renew()
        await self._rejoin(self.instance.instance_id)
        await self._beat()

    async def _be_introduced(self) -> None:
        if not self._introduced:
            await self._introduce()
            self._introduced = True

    def _renew(self) -> None:
        self.instance = make_instance(self._clock, self._lease)
        self._introduced = False

    async def _beat(self) -> bool:
        self.instance = replace(self.instance, heartbeat_at=self._clock.now())
        sent_at = self._clock.monotonic()
        try:
            async with within(self._clock, self._lease / 3):
                known = await self._backend.beat(self.instance)
        except TimeoutError:
            raise BackendUnavailableError(
                f"the {self._backend.name} backend did not take a heartbeat within {self._lease / 3:g} s"
            ) from None
        if known:
            self.heard_at = sent_at
        return known


async def _nothing(*_: object) -> None:
    """The default before `connect`: there is nothing to give up or to store."""
