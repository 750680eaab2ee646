"""The numbers of an engine: its slots, its stuck attempts, and the health of its backend."""

from __future__ import annotations

from collections import Counter

from taskflow_otel.engine.control import Control
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.live import LiveTasks


class Vitals:
    """Reads the current numbers."""

    def __init__(self, tasks: LiveTasks, ledger: Ledger, dispatcher: Dispatcher, control: Control) -> None:
        self._tasks = tasks
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._control = control

    @property
    def backend_failing(self) -> bool:
        """Whether the backend has not answered since its last failure, or keeps commits waiting."""
        return self._ledger.stalls

    @property
    def history_dropped(self) -> int:
        """How many finished tasks and log lines were never written, because the backend failed for too long."""
        return self._ledger.health.dropped_history

    def slots(self) -> dict[str, tuple[int, int | None]]:
        """How many attempts each executor runs, and its limit."""
        return {name: (slots.used, slots.capacity) for name, slots in self._dispatcher.slots.items()}

    def stuck(self) -> dict[str, int]:
        """How many attempts of each executor were asked to stop and still run."""
        counts = Counter(self._control.stuck.values())
        return {name: counts[name] for name in self._dispatcher.slots}

    def unpublished(self) -> dict[str, int]:
        """The tasks for which the ledger may hold more than was published; see `LiveTasks.unpublished`."""
        return self._ledger.doubtful() | self._tasks.unpublished()
