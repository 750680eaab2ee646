"""Transitions are collected and counted in one loop: each read has all of them."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from msgspec.structs import replace

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.buckets import resolve_buckets
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.task_counts import OTHER, TaskCounts
from taskflow_otel.exporters.prometheus.values import Snapshot
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.status import Transition
from tests.exporters.story import Story


def counts(cap: int = 200) -> TaskCounts:
    return TaskCounts(resolve_buckets({}), cap)


def read(counted: TaskCounts) -> Snapshot:
    found: Snapshot = {}
    counted.read(found)
    return found


def life(name: str = "send_email") -> list[LifecycleEvent]:
    """The events of a task that failed once and then succeeded."""
    story = Story(ObserverBus(), name).created()
    first = (Transition.ENQUEUED, Transition.STARTED, Transition.RETRY_SCHEDULED)
    return [story.tell(transition) for transition in (*first, Transition.STARTED, Transition.SUCCEEDED)]


@pytest.mark.parametrize("number", [0, 1, 51, 52, 200])
def test_each_read_has_all_events_so_far_however_many_wait(number: int) -> None:
    counted = counts()
    for done in range(number):
        for event in life():
            counted.take(event)
        if done % 37 == 0:
            assert read(counted)[signals.TASKS_FINISHED.name]["send_email", "default", "success"] == done + 1
    found = read(counted)
    if number:
        assert found[signals.TASK_ATTEMPTS.name]["send_email", "default", "failed"] == number
        assert found[signals.TASK_RETRIES.name]["send_email", "default"] == number
        assert found[signals.TASKS_RUNNING.name]["send_email", "default"] == 0
    else:
        assert not found[signals.TASKS_ENQUEUED.name]
    assert read(counted) == found, "a read counts nothing twice"


def test_a_label_is_known_as_soon_as_its_event_was_taken() -> None:
    counted = counts(cap=1)
    counted.take(life("first")[0])
    assert (counted.task_label("first"), counted.task_label("second")) == ("first", OTHER)
    # The order decides who is below the cap, also between events and declarations.
    other = counts(cap=1)
    other.take(life("first")[0])
    other.register("second", "default", objective=False)
    assert (other.task_label("first"), other.task_label("second")) == ("first", OTHER)


def test_a_refused_write_ends_an_attempt_whose_start_waits_to_be_counted() -> None:
    counted = counts()
    enqueued, started, *_ = life()
    counted.take(enqueued)
    counted.take(started)
    counted.refuse(started.task_id)
    found = read(counted)
    assert found[signals.TASKS_RUNNING.name]["send_email", "default"] == 0
    assert found[signals.FENCED_WRITES.name][()] == 1


def test_an_event_that_cannot_be_counted_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    counted = counts()
    enqueued, *rest = life()
    for event in (enqueued, replace(enqueued, source="from nowhere"), *rest):
        counted.take(event)
    found = read(counted)
    assert found[signals.TASKS_ENQUEUED.name]["send_email", "default", "manual"] == 1
    assert found[signals.TASKS_FINISHED.name]["send_email", "default", "success"] == 1
    assert "could not count a transition" in caplog.text


def test_a_waiting_event_keeps_no_exception_alive() -> None:
    counted = counts()
    *_, last = life()

    class GoneError(Exception):
        pass

    exc = GoneError()
    gone = weakref.ref(exc)
    counted.take(replace(last, exception=exc))
    del exc
    gc.collect()
    assert gone() is None


def test_a_child_process_forgets_the_events_that_its_parent_has_not_counted() -> None:
    exporter = PrometheusExporter()
    exporter.register_task("send_email", "default")
    for event in life():
        exporter.on_lifecycle(event)
    exporter._process = -1  # that of its parent
    exporter.start()
    assert exporter.snapshot()[signals.TASKS_ENQUEUED.name]["send_email", "default", "manual"] == 0


class Asked:
    """A lock that says when someone waits for it."""

    def __init__(self, waited: threading.Event) -> None:
        self._lock = threading.Lock()
        self._waited = waited

    def acquire(self, blocking: bool = True) -> bool:
        if not self._lock.acquire(blocking=False):
            if not blocking:
                return False
            self._waited.set()
            self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def test_a_read_waits_for_the_event_that_another_thread_is_counting() -> None:
    # What a process stores of its counts may be all that is left of it.
    counting, waited = threading.Event(), threading.Event()

    class Held(str):
        """A label whose count takes until someone waits for it."""

        def __hash__(self) -> int:
            counting.set()
            assert waited.wait(30)
            return hash(str(self))

    counted = counts()
    counted.register("send_email", "default", objective=False)
    counted._counting = Asked(waited)  # type: ignore[assignment]
    counted.take(replace(life()[0], source=Held("manual")))
    other = threading.Thread(target=counted.settle)
    other.start()
    try:
        assert counting.wait(30)
        found = read(counted)
    finally:
        waited.set()
        other.join()
    assert found[signals.TASKS_ENQUEUED.name]["send_email", "default", "manual"] == 1


def test_reads_from_threads_never_lose_or_repeat_an_event() -> None:
    counted = counts()
    events = [event for number in range(8) for event in life(f"task-{number}")]
    done, seen = threading.Event(), list[float]()

    def scrape() -> None:
        while not done.is_set():
            seen.append(
                sum(v for v in read(counted)[signals.TASKS_FINISHED.name].values() if isinstance(v, (int, float)))
            )

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            for event in events:
                counted.take(event)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    found = read(counted)
    for metric, times in ((signals.TASKS_ENQUEUED, 1), (signals.TASKS_FINISHED, 1), (signals.TASK_ATTEMPTS, 2)):
        assert sum(v for v in found[metric.name].values() if isinstance(v, (int, float))) == 2_400 * times
    assert all(value <= 2_400 for value in seen)
