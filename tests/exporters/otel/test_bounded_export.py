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
from taskflow_otel.exporters.otel.bounded_export import OncePerMinute, Outlet
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
LONG = 1_000.0


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


def fill(outlet: Outlet, number: int) -> list[int]:
    return [item for item in range(number) if outlet.enter()]


def fail(outlet: Outlet, collector: Collector, times: int) -> None:
    """Let so many exports fail, of one item each."""
    collector.takes = False
    for _ in range(times):
        assert not outlet.send(fill(outlet, 1), collector.export)


@contextmanager
def sending(outlet: Outlet, batch: Sequence[int], collector: Collector) -> Iterator[list[bool]]:
    """Send a batch on a thread; gives the list that the answer will be in."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(outlet.send(batch, collector.export)))
    thread.start()
    try:
        yield answers
    finally:
        outlet.close()
        thread.join(30)
        assert not thread.is_alive()


def test_what_there_is_no_room_for_is_dropped_and_counted() -> None:
    outlet, collector = Outlet("spans", 10), Collector()
    batch = fill(outlet, 25)
    assert (len(batch), outlet.dropped) == (10, 15)
    assert outlet.send(batch[:4], collector.export)
    assert (len(fill(outlet, 10)), outlet.dropped) == (4, 21), "what is sent makes room"
    assert collector.batches == [batch[:4]]


def test_no_drop_is_missed_when_threads_enter_together() -> None:
    outlet = Outlet("spans", 1_000)
    entered: list[int] = []
    threads = [threading.Thread(target=lambda: entered.append(len(fill(outlet, 5_000)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(entered), outlet.dropped) == (1_000, 39_000)


def test_a_batch_that_is_not_taken_is_dropped_and_the_next_one_tried(caplog: pytest.LogCaptureFixture) -> None:
    outlet, collector = Outlet("spans", 10, pause=LONG), Collector()
    fail(outlet, collector, 1)
    assert outlet.failing
    collector.takes = True
    assert outlet.send(fill(outlet, 2), collector.export)
    assert (outlet.dropped, outlet.failing, len(caplog.records)) == (1, False, 1)


def test_failures_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    outlet, collector = Outlet("log records", 10, pause=0.0), Collector()
    fail(outlet, collector, 500)
    assert (outlet.dropped, len(collector.batches)) == (500, 500)
    assert len(caplog.records) == 1
    assert "log records are dropped and counted in taskflow_events_dropped_total" in caplog.text


def test_an_exporter_that_raises_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    outlet, collector = Outlet("spans", 10), Collector(raises=OSError("no route"))
    assert not outlet.send(fill(outlet, 3), collector.export)
    assert (outlet.dropped, outlet.failing) == (3, True)
    assert "no route" in caplog.text


def test_after_repeated_failures_no_attempt_is_made_within_the_pause() -> None:
    outlet, collector = Outlet("spans", 10, pause=LONG), Collector()
    fail(outlet, collector, 2)
    with sending(outlet, fill(outlet, 10), collector) as answers:
        dropped = outlet.dropped
        assert len(fill(outlet, 10_000)) == 10, "what is in hand no longer waits"
        assert outlet.dropped == dropped + 9_990
    assert (answers, len(collector.batches)) == ([False], 2)
    assert outlet.dropped == 2 + 9_990 + 10


def test_after_the_pause_one_batch_is_tried() -> None:
    outlet, collector = Outlet("spans", 10, pause=0.001), Collector()
    fail(outlet, collector, 2)
    collector.takes = True
    assert outlet.send(fill(outlet, 1), collector.export)
    assert not outlet.failing


@pytest.mark.parametrize("takes", [True, False], ids=["is back", "is not back"])
def test_a_flush_ends_the_pause_and_learns_whether_the_collector(takes: bool) -> None:
    outlet, collector = Outlet("spans", 10, pause=LONG), Collector()
    fail(outlet, collector, 2)
    collector.takes = takes
    with sending(outlet, fill(outlet, 1), collector) as answers:
        wait_until(lambda: outlet._pausing, "the pause")
        assert outlet.retry(30) is takes
    assert answers == [takes]


def test_a_flush_waits_no_longer_than_it_may() -> None:
    outlet, collector = Outlet("spans", 10, pause=LONG), Collector()
    release = threading.Event()

    def hang(batch: Sequence[int]) -> bool:
        return release.wait(30)

    fail(outlet, collector, 2)
    thread = threading.Thread(target=outlet.send, args=(fill(outlet, 1), hang))
    thread.start()
    wait_until(lambda: outlet._pausing, "the pause")
    assert not outlet.retry(0.01)
    release.set()
    thread.join()


def test_a_flush_of_an_outlet_without_trouble_need_not_wait() -> None:
    assert Outlet("spans", 10).retry(0.0)


def test_at_the_end_a_collector_in_trouble_gets_no_attempt_and_another_one_does() -> None:
    troubled, well = Outlet("spans", 10, pause=LONG), Outlet("spans", 10)
    collector = Collector()
    fail(troubled, collector, 1)
    collector.takes = True
    for outlet, expected in ((troubled, False), (well, True)):
        batch = fill(outlet, 3)
        outlet.close()
        assert outlet.send(batch, collector.export) is expected
        assert fill(outlet, 1) == []
    assert (troubled.dropped, well.dropped) == (1 + 3 + 1, 1)
    assert len(collector.batches) == 2


def test_a_forked_child_begins_anew() -> None:
    script = """
    import os
    from taskflow_otel.exporters.otel.bounded_export import Outlet
    outlet, gone = Outlet("spans", 2), Outlet("spans", 1)
    assert [outlet.enter() for _ in range(3)] == [True, True, False]
    del gone
    outlet._lock.acquire()  # as a thread may hold it that the child does not have
    child = os.fork()
    if child == 0:
        os._exit(0 if (outlet.enter(), outlet.dropped) == (True, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    outlet._lock.release()
    assert (outlet.enter(), outlet.dropped) == (False, 2)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr


class Provider:
    """Stands for one of the SDK."""


def test_the_drops_of_a_provider_are_those_of_its_outlet() -> None:
    provider, outlet = Provider(), Outlet("spans", 1)
    module.remember(provider, outlet)
    fill(outlet, 5)
    assert [module.dropped_by(known) for known in (provider, Provider(), None)] == [4, 0, 0]
    number = len(module._outlets)
    del provider
    gc.collect()
    assert len(module._outlets) == number - 1, "it is not kept alive"


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("any", logging.WARNING, __file__, 1, message, arguments, None)


def test_a_log_message_passes_once_a_minute_whatever_its_arguments() -> None:
    now = [0.0]
    once = OncePerMinute(lambda: now[0])
    passed = []
    for second in range(0, 180, 10):
        now[0] = second
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
