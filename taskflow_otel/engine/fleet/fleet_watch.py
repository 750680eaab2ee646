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
    """Passes on the changes of other instances' tasks, while someone watches.

    A change is dated when its transaction begins, and may be committed long after that. So each look overlaps the
    last one, and some go further back. `here` returns what this process knows of a task by itself.
    """

    _PAGE = 500
    _OVERLAP = timedelta(seconds=2)
    """Another host's clock, or a commit, may be this late."""
    _LATE_PAGE = 1_000
    _LATE = timedelta(seconds=15)
    """The same for a backend that is slow: no operation takes longer."""
    _LATE_ROUNDS = 5
    """The number of looks, of which one goes back that far."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        watched: Callable[[], bool],
        publish: Callable[[TaskRecord], None],
        here: Callable[[str], TaskRecord | None] = lambda _: None,
    ) -> None:
        super().__init__("fleet-watch", interval, clock)
        self._backend = backend
        self._clock = clock
        self._membership = membership
        self._watched = watched
        self._publish = publish
        self._here = here
        self._began: datetime | None = None
        """From when on changes are passed on; `None` while nobody watches."""
        self._since: datetime | None = None
        self._looks = 0
        self._published: dict[str, int] = {}
        self._published_before: dict[str, int] = {}
        """The same up to the last look that went further back."""

    async def tick(self) -> None:
        """Pass on each change since the last look, once."""
        if not self._watched():
            self._began, self._since, self._looks = None, None, 0
            self._published, self._published_before = {}, {}
            return
        now = self._clock.now()
        began = self._began = self._began or now - self._OVERLAP
        self._looks += 1
        late = self._looks % self._LATE_ROUNDS == 0
        since = max(began, now - self._LATE) if late else self._since or began
        records = await self._backend.changed_since(
            since,
            not_of=self._membership.instance.instance_id,
            limit=self._LATE_PAGE if late else self._PAGE,
        )
        marks = self._published_before | self._published
        for record in records:
            # The length of the timeline distinguishes the states of a task.
            mark = len(record.timeline) * 2 + record.cancel_requested
            if marks.get(record.task_id) != mark or record.progress is not None:
                # A slow answer may be older than what this process has done with the task since.
                mine = self._here(record.task_id)
                if mine is None or mine.token < record.token:
                    self._publish(record)
            self._published[record.task_id] = mark
        if late:
            self._published_before, self._published = self._published, {}
        self._since = now - self._OVERLAP
