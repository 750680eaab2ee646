from __future__ import annotations

import gc
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskflow_otel.exporters.otel import bounded_export as module
from taskflow_otel.exporters.otel.bounded_export import BoundedExport, LastWait, OncePerMinute
from tests.clocks import HandClock
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
LONG = 1_000.0


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("any", logging.WARNING, __file__, 1, message, arguments, None)


class Collector:
    """What batches are exported to: takes them or not, or raises."""

    def __init__(self, *, takes: bool = True, raises: Exception | None = None) -> None:
        self.takes = takes
        self.raises = raises
        self.batches: list[Sequence[int]] = []

    def export(self, batch: Sequence[int]) -> bool:
        self.batches.append(batch)
        if self.raises is not None:
            raise self.raises
        return self.takes


def fill(bounded: BoundedExport, number: int) -> list[int]:
    return [item for item in range(number) if bounded.enter()]


def fail(bounded: BoundedExport, collector: Collector, times: int) -> None:
    """Let `times` exports fail, of one item each."""
    collector.takes = False
    for _ in range(times):
        assert not bounded.send(fill(bounded, 1), collector.export)


@contextmanager
def sending(bounded: BoundedExport, batch: Sequence[int], collector: Collector) -> Iterator[list[bool]]:
    """Send a batch on a thread; gives the list that the answer will be in."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(bounded.send(batch, collector.export)))
    thread.start()
    try:
        yield answers
    finally:
        bounded.close()
        thread.join(30)
        assert not thread.is_alive()


def test_what_there_is_no_room_for_is_dropped_and_counted() -> None:
    bounded, collector = BoundedExport("spans", 10), Collector()
    batch = fill(bounded, 25)
    assert (len(batch), bounded.dropped) == (10, 15)
    assert bounded.send(batch[:4], collector.export)
    assert (len(fill(bounded, 10)), bounded.dropped) == (4, 21), "what is sent makes room"
    assert collector.batches == [batch[:4]]


def test_no_drop_is_missed_when_threads_enter_together() -> None:
    bounded = BoundedExport("spans", 1_000)
    entered: list[int] = []
    threads = [threading.Thread(target=lambda: entered.append(len(fill(bounded, 5_000)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(entered), bounded.dropped) == (1_000, 39_000)


def test_a_batch_that_is_not_taken_is_dropped_and_the_next_one_tried(caplog: pytest.LogCaptureFixture) -> None:
    bounded, collector = BoundedExport("spans", 10, pause=LONG), Collector()
    fail(bounded, collector, 1)
    assert bounded.failing
    collector.takes = True
    assert bounded.send(fill(bounded, 2), collector.export)
    assert (bounded.dropped, bounded.failing, len(caplog.records)) == (1, False, 1)


def test_failures_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    bounded, collector = BoundedExport("log records", 10, pause=0.0), Collector()
    fail(bounded, collector, 500)
    assert (bounded.dropped, len(collector.batches)) == (500, 500)
    assert len(caplog.records) == 1
    assert "log records are dropped and counted in taskflow_events_dropped_total" in caplog.text


def test_an_exporter_that_raises_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    bounded, collector = BoundedExport("spans", 10), Collector(raises=OSError("no route"))
    assert not bounded.send(fill(bounded, 3), collector.export)
    assert (bounded.dropped, bounded.failing) == (3, True)
    assert "no route" in caplog.text


def test_after_repeated_failures_no_attempt_is_made_within_the_pause() -> None:
    bounded, collector = BoundedExport("spans", 10, pause=LONG), Collector()
    fail(bounded, collector, 2)
    with sending(bounded, fill(bounded, 10), collector) as answers:
        dropped = bounded.dropped
        assert len(fill(bounded, 10_000)) == 10, "what is in hand no longer waits"
        assert bounded.dropped == dropped + 9_990
    assert (answers, len(collector.batches)) == ([False], 2)
    assert bounded.dropped == 2 + 9_990 + 10


def test_after_the_pause_one_batch_is_tried() -> None:
    bounded, collector = BoundedExport("spans", 10, pause=0.001), Collector()
    fail(bounded, collector, 2)
    collector.takes = True
    assert bounded.send(fill(bounded, 1), collector.export)
    assert not bounded.failing


@pytest.mark.parametrize("takes", [True, False], ids=["is back", "is not back"])
def test_a_flush_ends_the_pause_and_learns_whether_the_collector(takes: bool) -> None:
    bounded, collector = BoundedExport("spans", 10, pause=LONG), Collector()
    fail(bounded, collector, 2)
    collector.takes = takes
    with sending(bounded, fill(bounded, 1), collector) as answers:
        wait_until(lambda: bounded._pausing, "the pause")
        assert bounded.retry(30) is takes
    assert answers == [takes]


def test_a_flush_waits_no_longer_than_it_may() -> None:
    bounded, collector = BoundedExport("spans", 10, pause=LONG), Collector()
    release = threading.Event()

    def hang(batch: Sequence[int]) -> bool:
        return release.wait(30)

    fail(bounded, collector, 2)
    thread = threading.Thread(target=bounded.send, args=(fill(bounded, 1), hang))
    thread.start()
    wait_until(lambda: bounded._pausing, "the pause")
    assert not bounded.retry(0.01)
    release.set()
    thread.join()


def test_a_flush_of_a_bounded_export_without_trouble_need_not_wait() -> None:
    assert BoundedExport("spans", 10).retry(0.0)


def test_at_the_end_a_collector_in_trouble_gets_no_attempt_and_another_one_does() -> None:
    troubled, well = BoundedExport("spans", 10, pause=LONG), BoundedExport("spans", 10)
    collector = Collector()
    fail(troubled, collector, 1)
    collector.takes = True
    for bounded, expected in ((troubled, False), (well, True)):
        batch = fill(bounded, 3)
        bounded.close()
        assert bounded.send(batch, collector.export) is expected
        assert fill(bounded, 1) == []
    assert (troubled.dropped, well.dropped) == (1 + 3 + 1, 1)
    assert len(collector.batches) == 2


@pytest.mark.parametrize(("takes", "limit"), [(None, 2.0), (True, 5.0), (False, 1.0)])
def test_all_signals_together_get_one_wait_at_the_end(takes: bool | None, limit: float) -> None:
    clock, collector = HandClock(100.0), Collector()
    last_wait = LastWait(clock)
    signals = [BoundedExport(what, 10, last_wait=last_wait) for what in ("spans", "metrics", "log records")]
    left = []
    for bounded in signals:
        if takes is not None:
            collector.takes = takes
            assert bounded.send(fill(bounded, 1), collector.export) is takes
        left.append(bounded.close())
        clock.seconds += limit / 2
    assert left == [limit, limit / 2, 0.0]


@pytest.mark.parametrize("ending", [False, True])
def test_a_warning_of_an_exporter_at_work_ends_a_flush_and_at_the_end_its_retries(ending: bool) -> None:
    bounded, ended = BoundedExport("spans", 10), threading.Event()
    once = OncePerMinute(HandClock())

    def export(batch: Sequence[int]) -> bool:
        for _ in range(2):
            # The second one does not pass, and counts too.
            once.filter(record("retrying in %s", 1))
            if not ending:
                assert not bounded.wait(threading.Event(), LONG)
        assert bounded.failing
        assert ended.is_set() is ending
        return True

    batch = fill(bounded, 1)
    if ending:
        bounded.close(ended.set)
    assert bounded.send(batch, export)
    assert not bounded.failing
    # Of no exporter at work.
    once.filter(record("failed"))
    assert not bounded.failing


def test_a_forked_child_begins_anew() -> None:
    script = """
    import os
    from taskflow_otel.exporters.otel.bounded_export import BoundedExport
    bounded, gone = BoundedExport("spans", 2), BoundedExport("spans", 1)
    assert [bounded.enter() for _ in range(3)] == [True, True, False]
    del gone
    bounded._lock.acquire()  # as a thread may hold it that the child does not have
    child = os.fork()
    if child == 0:
        os._exit(0 if (bounded.enter(), bounded.dropped) == (True, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bounded._lock.release()
    assert (bounded.enter(), bounded.dropped) == (False, 2)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr


class Provider:
    """Stands for one of the SDK."""


def test_the_drops_of_a_provider_are_those_of_its_bounded_export() -> None:
    provider, bounded = Provider(), BoundedExport("spans", 1)
    module.remember(provider, bounded)
    fill(bounded, 5)
    assert [module.dropped_by(known) for known in (provider, Provider(), None)] == [4, 0, 0]
    number = len(module._by_provider)
    del provider
    gc.collect()
    assert len(module._by_provider) == number - 1, "it is not kept alive"


def test_a_log_message_passes_once_a_minute_whatever_its_arguments() -> None:
    clock = HandClock()
    once = OncePerMinute(clock)
    passed = []
    for second in range(0, 180, 10):
        clock.seconds = second
        passed.append([once.filter(record(message, second)) for message in ("retrying in %s", "failed")])
    assert [second * 10 for second, answers in enumerate(passed) if answers == [True, True]] == [0, 60, 120]
    assert sum(map(any, passed)) == 3


def test_the_loggers_of_an_exporter_are_quietened_once() -> None:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:9")
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    before = list(log.filters)
    try:
        for _ in range(2):
            module.quieten(exporter)
        assert [type(added) for added in log.filters if added not in before] == [OncePerMinute]
    finally:
        log.filters[:] = before
        exporter.shutdown()
