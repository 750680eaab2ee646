"""What a collector has received of a storm: nothing that the ledger does not hold, and everything of the survivor."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from taskflow_otel.exporters import signals
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.replay import replay
from taskflow_otel.model.status import Transition
from taskflow_otel.reconcile.compare import Difference
from tests.otlp import OtlpReceiver

REJECTED = signals.LOGS[Transition.REJECTED].event_name
_ENVIRONMENT = {
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "OTEL_BLRP_SCHEDULE_DELAY": "200",
    "OTEL_BSP_MAX_QUEUE_SIZE": "20000",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "20000",
    # The counts of a process that is killed every second or two are looked for in a Prometheus.
    "OTEL_METRICS_EXPORTER": "none",
}


class Collector(OtlpReceiver):
    """A receiver that reads what has come only when it is asked: the storm needs the processor."""

    def __init__(self) -> None:
        super().__init__()
        self._unread: deque[tuple[str, bytes]] = deque()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process exports its spans and log records here."""
        return {**super().environment, **_ENVIRONMENT}

    def take(self, path: str, body: bytes) -> None:
        """Keep one export request."""
        self._unread.append((path, body))

    def file(self, path: Path) -> Path:
        """Write everything that has come, as a collector's `file` exporter does."""
        while self._unread:
            super().take(*self._unread.popleft())
        return self.write(path, "resourceSpans", "resourceLogs")


class Untrue:
    """Tells what a collector must not say, or must not lack, from what was lost with a process that was killed.

    `kinds`: the types of the exported tasks, by id. `lasts`: whether an instance was not killed. `doubted`: the tasks
    that were told to be refused; the commit of one of them may turn out to be in the ledger. `unkept`: the types of
    which the ledger need not have everything.
    """

    def __init__(
        self,
        records: Mapping[str, TaskRecord],
        kinds: Mapping[str, str],
        lasts: Callable[[str], bool],
        doubted: Collection[str],
        unkept: Collection[str],
    ) -> None:
        self._records = records
        self._kinds = kinds
        self._lasts = lasts
        self._doubted = doubted
        self._unkept = unkept

    def of(self, differences: Iterable[Difference]) -> list[str]:
        """The differences that are no loss."""
        return [str(one) for one in differences if self._is_untrue(one)]

    def _is_untrue(self, one: Difference) -> bool:
        task_id = one.what.rpartition(" ")[2]
        record = self._records.get(task_id)
        if record is None:
            names = one.found.removeprefix("none (").removesuffix(")").split(", ")
            kind = self._kinds[task_id]
            return not (kind in self._unkept or set(names) <= {REJECTED, f"send {kind}"})
        if record.func_name in self._unkept:
            return False
        events = list(replay(record))
        if one.witness == "logs":
            return self._is_untrue_log(one, record, events)
        expected, found = _listed(one.expected), _listed(one.found)
        if one.what.startswith("send span"):
            return bool(found - expected) or self._lasts(events[0].instance)
        if one.what.startswith("ended attempts"):
            kept = Counter(str(event.attempt) for event in events if event.ends_attempt and self._lasts(event.instance))
            return bool(found - expected) or bool((expected - found) & kept)
        return not (one.what.startswith("status of send") and task_id in self._doubted)

    def _is_untrue_log(self, one: Difference, record: TaskRecord, events: list[LifecycleEvent]) -> bool:
        name = one.what.partition(" ")[0]
        missing = int(one.expected) - int(one.found)
        if name == signals.TASK_LOG.event_name:
            # An entry is written a moment after it was exported, or before.
            return all(self._lasts(event.instance) for event in events)
        if name == REJECTED and record.task_id in self._doubted:
            return False
        lost = sum(
            signals.LOGS[event.transition].event_name == name and not self._lasts(event.instance) for event in events
        )
        return missing < 0 or missing > lost


def _listed(text: str) -> Counter[str]:
    return Counter() if text == "none" else Counter(text.split(", "))
