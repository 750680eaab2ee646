"""Cancellations that other instances asked for."""

from __future__ import annotations

from collections.abc import Callable

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.pool import POOL
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.membership import Membership
from taskflow_otel.errors import BackendError
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.service import Service


class RemoteCancels(Service):
    """Carries out cancellations that other instances asked for.

    Those of tasks in the pool, which have no owner, were asked for in transactions of callers: the first instance that
    sees one carries it out.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        control: Control,
        life: Life,
        background: OwnedTasks,
    ) -> None:
        super().__init__("remote-cancels", interval, clock)
        self._backend = backend
        self._membership = membership
        self._control = control
        self._life = life
        self._background = background
        self._pool_has_tasks: Callable[[], bool] = _never
        self._look_due = False

    def connect(self, pool_has_tasks: Callable[[], bool]) -> None:
        """Set what tells whether tasks wait in the pool: a round asks the backend about them only then."""
        self._pool_has_tasks = pool_has_tasks

    async def start(self) -> None:
        """See `Service`."""
        self._look_due = False
        await super().start()

    async def tick(self) -> None:
        """Look once, and cancel the tasks that others asked to cancel."""
        await self._carry_out(pool=self._pool_has_tasks())

    def look(self) -> None:
        """Look soon: there is a new request, of a task that is here, elsewhere, or in the pool."""
        if not self._look_due and self._life.running:
            self._look_due = True
            self._background.own(self._look())

    async def _look(self) -> None:
        self._look_due = False
        try:
            await self._carry_out(pool=True)
        except BackendError:
            # The next round reports it, and tries again.
            return

    async def _carry_out(self, *, pool: bool) -> None:
        for task_id in await self._backend.cancel_requests(self._membership.instance.instance_id):
            await self._control.cancel_for_another(task_id)
        for task_id in await self._backend.cancel_requests(POOL) if pool else ():
            await self._control.cancel_in_pool(task_id)


def _never() -> bool:
    return False
