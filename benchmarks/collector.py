"""What a collector in trouble costs: `python -m benchmarks.collector`, JSON out.

Each case runs in a process of its own: persisted no-op tasks on SQLite with SDK spans and logs, exported by OTLP/HTTP
through the SDK's batch processors. `none` drops what it would export and is what the others are compared with;
`absent` is a closed port, `refusing` answers 503, `slow` answers after five seconds, `hung` never. Cases take turns,
so that a machine that changes its speed changes it for all; the ratio of a case is the median over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CASES = ("none", "absent", "refusing", "slow", "hung")
_SLOW_SECONDS = 5.0


@contextmanager
def collector(case: str) -> Iterator[str]:
    """A collector on loopback that behaves as the case says; gives its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if case in {"none", "absent"}:
        listener.close()
        yield address
        return
    listener.listen(64)

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65_536)
            if case == "hung":
                threading.Event().wait()
            if case == "slow":
                time.sleep(_SLOW_SECONDS)
            status = "503 Service Unavailable" if case == "refusing" else "200 OK"
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield address
    finally:
        listener.close()


async def run_tasks(case: str, address: str, seconds: float) -> dict[str, float]:
    """Run tasks for a while, and tell how many finished and what memory it took."""
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from taskflow_otel import TaskManager, Telemetry

    class Drop(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    class DropLogs(InMemoryLogRecordExporter):
        def export(self, batch: object) -> object:  # type: ignore[override]  # it keeps nothing
            from opentelemetry.sdk._logs.export import LogRecordExportResult

            return LogRecordExportResult.SUCCESS

    spans, logs = TracerProvider(), LoggerProvider()
    quiet = case == "none"
    spans.add_span_processor(BatchSpanProcessor(Drop() if quiet else OTLPSpanExporter(f"{address}/v1/traces")))
    logs.add_log_record_processor(
        BatchLogRecordProcessor(DropLogs() if quiet else OTLPLogExporter(f"{address}/v1/logs"))
    )
    finished = 0
    with tempfile.TemporaryDirectory() as folder:
        manager = TaskManager(
            snapshot_db=Path(folder) / "tasks.db", telemetry=Telemetry(tracer_provider=spans, logger_provider=logs)
        )

        @manager.task(persist=True)
        async def nothing() -> None:
            nonlocal finished
            finished += 1

        await manager.startup()
        end = time.monotonic() + seconds

        async def produce() -> None:
            while time.monotonic() < end:
                await manager.wait(await manager.enqueue(nothing))

        started = time.monotonic()
        await asyncio.gather(*(produce() for _ in range(64)))
        took = time.monotonic() - started
        await manager.shutdown()
    return {
        "tasks_per_second": finished / took,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def child(case: str, seconds: float) -> dict[str, float]:
    """Run one case in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.collector", "--case", case, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 90)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    result["lines_on_stderr"] = float(len(done.stderr.splitlines()))
    return result


def main() -> None:
    """Run all cases in turn, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.case:
        with collector(options.case) as address:
            print(json.dumps(asyncio.run(run_tasks(options.case, address, options.seconds))), flush=True)
        # The SDK's exporter threads would go on trying.
        sys.stdout.flush()
        import os

        os._exit(0)
    rounds = [{case: child(case, options.seconds) for case in CASES} for _ in range(options.rounds)]
    report = {
        case: {
            "ratio": statistics.median(r[case]["tasks_per_second"] / r["none"]["tasks_per_second"] for r in rounds),
            "tasks_per_second": statistics.median(r[case]["tasks_per_second"] for r in rounds),
            "peak_rss_mb": max(r[case]["peak_rss_mb"] for r in rounds),
            "lines_on_stderr": max(r[case]["lines_on_stderr"] for r in rounds),
        }
        for case in CASES
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
