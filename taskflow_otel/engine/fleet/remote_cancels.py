"""Cancellations that other instances asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.membership import Membership
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service


class RemoteCancels(Service):
    """Carries out cancellations that other instances asked for."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__("remote-cancels", interval, clock)
        self._backend = backend
        self._membership = membership
        self._cancel = cancel

    async def tick(self) -> None:
        """Look once, and cancel the tasks that others asked to cancel."""
        for task_id in await self._backend.cancel_requests(self._membership.instance.instance_id):
            await self._cancel(task_id)
