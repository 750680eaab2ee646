"""Changes of the other instances' tasks, for the live stream of this one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.membership import Membership
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service


class FleetWatch(Service):
    """Passes on the changes of other instances' tasks, while someone watches."""

    _PAGE = 500
    _OVERLAP = timedelta(seconds=2)
    """Each look overlaps the last one: another host's clock, or a slow commit, may date a change into the past."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        watched: Callable[[], bool],
        publish: Callable[[TaskRecord], None],
    ) -> None:
        super().__init__("fleet-watch", interval, clock)
        self._backend = backend
        self._clock = clock
        self._membership = membership
        self._watched = watched
        self._publish = publish
        self._since: datetime | None = None
        self._published: dict[str, int] = {}

    async def tick(self) -> None:
        """Pass on each change since the last look, once."""
        if not self._watched():
            self._since, self._published = None, {}
            return
        now = self._clock.now()
        since = self._since or now - self._OVERLAP
        records = await self._backend.changed_since(
            since, not_of=self._membership.instance.instance_id, limit=self._PAGE
        )
        published: dict[str, int] = {}
        for record in records:
            # The length of the timeline distinguishes the states of a task.
            mark = len(record.timeline) * 2 + record.cancel_requested
            published[record.task_id] = mark
            if self._published.get(record.task_id) != mark or record.progress is not None:
                self._publish(record)
        self._published = published
        self._since = now - self._OVERLAP
