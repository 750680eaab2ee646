"""What dead instances left behind, for the people who look afterwards: stored for as long as the instance is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from taskflow_otel.backends.base import Backend
from taskflow_otel.model.query import Loss
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus

PREFIX = "lost:"
_NAMED = 100
_TRIES = 5


class Losses:
    """Notes which tasks were taken over from each dead instance."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def note(self, taken: Mapping[str, Sequence[TaskRecord]]) -> None:
        """Note tasks, as they were when they were taken over, under the id of their dead owner."""
        for instance_id, records in taken.items():
            ran = [record.task_id for record in records if record.status is TaskStatus.RUNNING]
            await self._add(instance_id, ran, len(records) - len(ran))

    async def _add(self, instance_id: str, ran: Sequence[str], waited: int) -> None:
        key = f"{PREFIX}{instance_id}"
        for _ in range(_TRIES):
            stored = (await self._backend.settings(key)).get(key)
            known = load_loss(stored)
            ids = list(dict.fromkeys([*known.interrupted, *ran]))[:_NAMED]
            new = Loss(ids, known.interrupted_number + len(ran), known.moved + waited)
            text = json.dumps([new.interrupted, new.interrupted_number, new.moved])
            # Another instance may have taken over the rest of the tasks at the same time.
            if await self._backend.swap_settings({key: stored}, {key: text}):
                return

    async def forget(self, ids: Collection[str]) -> None:
        """Forget instances."""
        for key in await self._backend.settings(PREFIX) if ids else ():
            if key.removeprefix(PREFIX) in ids:
                await self._backend.put_setting(key, None)


def load_loss(text: str | None) -> Loss:
    """The stored loss; an empty one if there is no text, or none that can be read."""
    try:
        interrupted, number, moved = json.loads(text) if text else ([], 0, 0)
        return Loss([str(task_id) for task_id in interrupted], int(number), int(moved))
    except (ValueError, TypeError):
        return Loss()
