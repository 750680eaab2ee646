"""What a collector in trouble costs: `python -m benchmarks.collector`, JSON out.

`none` has no telemetry. `nowhere` makes spans and log records and throws them away in its exporter: the baseline.
`again` does the same once more, and shows what is noise. `healthy` answers at once, `absent` is a closed port,
`refusing` answers 503, `slow` answers after five seconds, `hung` never. The collector is a process of its own; how the
cases take turns is told in `benchmarks/slices.py`.

`--sdk plain` puts the SDK's own batch processors in place of those of `configure_telemetry`; `--persist` keeps the
tasks in SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.slices import Child, answer_slices, compare, take_turns

if TYPE_CHECKING:
    from taskflow_otel import Telemetry

MODULE = "benchmarks.collector"
COLLECTORS = ("healthy", "absent", "refusing", "slow", "hung")
BASELINES = ("nowhere", "healthy")
CASES = ("none", "nowhere", "again", *COLLECTORS)
_SLOW_SECONDS = 5.0


async def collect() -> None:
    """Serve one port for each behaviour; say which, and when standard input ends, how many requests came to each."""
    requests: Counter[str] = Counter()
    ports: dict[str, int] = {}
    for case in COLLECTORS:
        server = await asyncio.start_server(_behave(case, requests), "127.0.0.1", 0)
        ports[case] = server.sockets[0].getsockname()[1]
        if case == "absent":
            server.close()
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(requests), flush=True)
    os._exit(0)


def _behave(
    case: str, requests: Counter[str]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    status = b"503 Service Unavailable" if case == "refusing" else b"200 OK"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            fields = dict(line.split(b": ", 1) for line in head.lower().strip().split(b"\r\n")[1:])
            await reader.readexactly(int(fields[b"content-length"]))
            requests[case] += 1
            if case == "hung":
                await asyncio.Event().wait()
            if case == "slow":
                await asyncio.sleep(_SLOW_SECONDS)
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    return answer


def telemetry(case: str, sdk: str) -> Telemetry | None:
    """What the manager of a case is given; `None` leaves it to the global providers."""
    from fastapi import FastAPI
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter, LogRecordExportResult
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from taskflow_otel import Telemetry
    from taskflow_otel.exporters.otel.setup import configure_telemetry

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    class NowhereForLogs(InMemoryLogRecordExporter):
        def export(self, batch: object) -> LogRecordExportResult:
            return LogRecordExportResult.SUCCESS

    if case == "none":
        return None
    nowhere = case not in COLLECTORS
    if sdk == "configured" and not nowhere:
        configure_telemetry(FastAPI(), service_name="benchmark")
        return None
    spans, logs = TracerProvider(), LoggerProvider()
    spans.add_span_processor(BatchSpanProcessor(Nowhere() if nowhere else OTLPSpanExporter()))
    to = NowhereForLogs() if nowhere else OTLPLogExporter()  # type: ignore[no-untyped-call]
    logs.add_log_record_processor(BatchLogRecordProcessor(to))
    return Telemetry(tracer_provider=spans, logger_provider=logs)


async def application(case: str, sdk: str, persist: bool) -> None:
    """One case: a manager that runs no-op tasks whenever it is asked to."""
    from taskflow_otel import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "tasks.db" if persist else None
        manager = TaskManager(snapshot_db=database, telemetry=telemetry(case, sdk))

        @manager.task(persist=persist)
        async def nothing() -> None:
            pass

        async def run_one() -> None:
            await manager.wait(await manager.enqueue(nothing))

        def dropped(exporter: str) -> float | None:
            return manager.metrics.registry.get_sample_value("taskflow_events_dropped_total", {"exporter": exporter})

        await manager.startup()
        await answer_slices(run_one, lambda: {"dropped": {name: dropped(name) for name in ("tracing", "logs")}})
    # The SDK's own processors would go on trying.
    os._exit(0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Let the cases take turns, and compare them."""
    collector = Child(MODULE, "--collect")
    ports = collector.answer()
    applications = {
        case: Child(
            MODULE,
            *("--case", case, "--sdk", options.sdk),
            *(["--persist"] if options.persist else []),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{ports.get(case, 0)}",
            OTEL_METRICS_EXPORTER="none",
        )
        for case in options.cases
    }
    rounds = take_turns(applications, rounds=options.rounds, warm_up=options.warm_up, seconds=options.seconds)
    for application in applications.values():
        application.end()
    printed = {case: len(application.printed()) for case, application in applications.items()}
    collector.end()
    requests = collector.answer()
    baselines = [case for case in BASELINES if case in applications]
    return {
        "sdk": options.sdk,
        "persisted": options.persist,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load_average": os.getloadavg()[0],
        "cases": {
            case: compare(rounds, case, baselines)
            | {
                "peak_rss_mb": rounds[-1][case]["peak_rss_mb"],
                "dropped": rounds[-1][case]["dropped"],
                "requests_to_the_collector": requests.get(case, 0),
                "lines_printed": printed[case],
            }
            for case in applications
        },
    }


def main() -> None:
    """Compare the cases, or be one of their processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5, help="rounds that are not measured")
    parser.add_argument("--seconds", type=float, default=0.8, help="length of a slice")
    parser.add_argument("--sdk", choices=("configured", "plain"), default="configured")
    parser.add_argument("--persist", action="store_true")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--collect", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        asyncio.run(collect())
    elif options.case:
        asyncio.run(application(options.case, options.sdk, options.persist))
    else:
        print(json.dumps(measure(options), indent=2))


if __name__ == "__main__":
    main()
