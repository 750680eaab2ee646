"""`configure_telemetry` sets process-wide providers, so each case runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.otlp import OtlpReceiver

ROOT = Path(__file__).parents[3]

APP = """
import asyncio, httpx
from fastapi import FastAPI
async def request():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        (await client.get("/hello")).raise_for_status()
from taskflow_otel.exporters.otel.setup import configure_telemetry
app = FastAPI()
@app.get("/hello")
async def hello(): return {}
"""


def run(script: str, *, app: str = APP, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "FASTAPI_OTEL_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", app + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=clean | environment,
    )


def test_one_call_exports_one_span_for_a_request_and_the_metrics_of_the_process() -> None:
    script = """
    configured = configure_telemetry(app, service_name="shop", resource_attributes={"deployment.environment.name": "t"})
    assert configure_telemetry(app, service_name="shop") is configured
    asyncio.run(request())
    configured.force_flush()
    configured.shutdown()
    configured.shutdown()
    """
    with OtlpReceiver() as receiver:
        result = run(script, **receiver.environment)
    assert result.returncode == 0, result.stderr
    servers = [span for span in receiver.spans if span.kind == "SERVER"]
    assert [(span.name, span.service) for span in servers] == [("GET /hello", "shop")]
    assert "http.server.request.duration" in receiver.metric_names


def test_the_environment_names_the_service_and_wins() -> None:
    script = """
    from opentelemetry import trace
    configure_telemetry(app, service_name="shop", resource_attributes={"a": "1"})
    found = trace.get_tracer_provider().resource.attributes
    print(found["service.name"], found["a"], found["b"])
    """
    result = run(
        script, OTEL_SERVICE_NAME="renamed", OTEL_RESOURCE_ATTRIBUTES="b=2", OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none",
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "renamed 1 2\n"), result.stderr


def test_providers_that_are_set_already_stay() -> None:
    script = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    mine = TracerProvider()
    trace.set_tracer_provider(mine)
    configure_telemetry(app, service_name="shop").shutdown()
    assert trace.get_tracer_provider() is mine
    with trace.get_tracer("t").start_as_current_span("still alive") as span:
        assert span.is_recording()
    """
    result = run(script, OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
    ],
    ids=["disabled", "no exporters"],
)
def test_the_environment_can_switch_it_off(environment: dict[str, str]) -> None:
    script = """
    from opentelemetry import trace
    configure_telemetry(app, service_name="shop").force_flush()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    """
    result = run(script, **environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("protocol", "package"), [("", "http"), ("http/protobuf", "http"), ("grpc", "grpc")])
def test_the_protocol_chooses_the_exporter(protocol: str, package: str) -> None:
    script = f"""
    import sys
    configure_telemetry(app, service_name="shop")
    assert "opentelemetry.exporter.otlp.proto.{package}.trace_exporter" in sys.modules
    # Nothing listens: the exit must not wait for it.
    import os; os._exit(0)
    """
    result = run(script, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "carrier pigeon")]
)
def test_an_unknown_setting_is_an_error_that_names_the_variable(variable: str, value: str) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"} | {variable: value}
    result = run('configure_telemetry(app, service_name="shop")', **environment)
    assert f"ConfigurationError: {variable} must be one of" in result.stderr


def test_without_the_sdk_the_error_names_the_extra() -> None:
    script = """
    import importlib.util, taskflow_otel.exporters.otel.setup as setup
    setup.find_spec = lambda name: None if name == "opentelemetry.sdk" else importlib.util.find_spec(name)
    configure_telemetry(app, service_name="shop")
    """
    assert "pip install 'taskflow-otel[otel]'" in run(script).stderr


def test_an_empty_service_name_is_refused() -> None:
    assert "service_name must not be empty" in run('configure_telemetry(app, service_name="")').stderr


def test_log_records_inside_a_span_and_a_task_carry_their_ids() -> None:
    script = """
    import logging, sys
    from opentelemetry import context, trace
    from taskflow_otel.exporters.otel.tracing import TASK_ID_KEY
    form = "%(message)s [%(trace_id)s] [%(task_id)s]"
    logging.basicConfig(format=form, level="INFO", stream=sys.stdout)
    for _ in range(2):
        configured = configure_telemetry(app, service_name="shop")
    log = logging.getLogger("any.logger")
    log.info("outside")
    with trace.get_tracer("t").start_as_current_span("s") as span:
        token = context.attach(context.set_value(TASK_ID_KEY, "task-1"))
        log.info("inside")
        log.info("own", extra={"task_id": "mine", "trace_id": "own"})
        context.detach(token)
    print(trace.format_trace_id(span.get_span_context().trace_id))
    """
    environment = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    result = run(script, **environment)
    assert result.returncode == 0, result.stderr
    outside, inside, own, trace_id, *_ = [line for line in result.stdout.splitlines() if "provider" not in line]
    assert outside == "outside [] []"
    assert inside == f"inside [{trace_id}] [task-1]"
    assert own == "own [own] [mine]"


LEGACY = """
import importlib.util, taskflow_otel.compat.opentelemetry as compat
compat.find_spec = lambda name: None if name == "fastapi.telemetry" else importlib.util.find_spec(name)
"""


def test_a_fastapi_without_telemetry_of_its_own_is_instrumented_once() -> None:
    script = """
    for _ in range(2):
        configured = configure_telemetry(app, service_name="shop")
    asyncio.run(request())
    configured.force_flush()
    """
    with OtlpReceiver() as receiver:
        result = run(
            script,
            app=APP.replace("FastAPI()", "FastAPI(telemetry={'tracing': False, 'logs': False})") + LEGACY,
            **receiver.environment,
        )
    assert result.returncode == 0, result.stderr
    assert [span.name for span in receiver.spans if span.kind == "SERVER"] == ["GET /hello"]


PROBED = """
from taskflow_otel import TaskAdmin, TaskManager
async def probe(path):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for name in ("metrics", "livez", "readyz", "health", "stats"):
            await client.get(f"{path}/{name}")
        await client.get("/health")
        await client.get("/hello")
"""
ADMIN_FIRST = """
TaskAdmin(app, TaskManager(), path="/jobs")
configured = configure_telemetry(app, service_name="shop")
"""
ADMIN_LATER = """
configured = configure_telemetry(app, service_name="shop")
TaskAdmin(app, TaskManager(), path="/jobs")
"""
PROBES = 'asyncio.run(probe("/jobs"))\nconfigured.force_flush()\n'
EXCLUDING = "FastAPI(telemetry={'exclude': lambda scope: scope['path'] == '/hello'})"
TRACED = ["GET", "GET /hello", "GET /jobs/stats"]


@pytest.mark.parametrize(
    ("app", "script", "traced"),
    [
        (APP, ADMIN_FIRST, TRACED),
        (APP, ADMIN_LATER, TRACED),
        (APP.replace("FastAPI()", EXCLUDING), ADMIN_LATER, ["GET", "GET /jobs/stats"]),
        (
            APP.replace("FastAPI()", "FastAPI(telemetry={'tracing': False, 'logs': False})") + LEGACY,
            ADMIN_FIRST,
            TRACED,
        ),
    ],
    ids=["before", "after", "beside an exclusion of the application", "by the instrumentation"],
)
def test_probes_and_scrapes_of_the_administration_leave_no_spans(app: str, script: str, traced: list[str]) -> None:
    with OtlpReceiver() as receiver:
        result = run(PROBED + script + PROBES, app=app, **receiver.environment)
    assert result.returncode == 0, result.stderr
    assert sorted(span.name for span in receiver.spans if span.kind == "SERVER") == traced


TASKS = """
import json, logging, time
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from taskflow_otel import TaskManager, TaskStatus
exports = []
for kind in (OTLPSpanExporter, OTLPLogExporter):
    def counted(self, batch, kind=kind, export=kind.export):
        exports.append(kind.__name__)
        return export(self, batch)
    kind.export = counted
configured = configure_telemetry(app, service_name="shop")
manager = TaskManager()
@manager.task()
async def nothing(): pass
async def run(number):
    await manager.startup()
    for _ in range(number):
        record = await manager.wait(await manager.enqueue(nothing))
        assert record.status is TaskStatus.SUCCESS
    await manager.shutdown()
def dropped(exporter):
    return manager.metrics.registry.get_sample_value("taskflow_events_dropped_total", {"exporter": exporter})
"""


@contextmanager
def collector(status: int | None) -> Iterator[str]:
    """The address of a collector that always answers so; `None`: of none."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status or 0)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        if status is None:
            server.server_close()
            yield address
            return
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [None, 503, 400], ids=["absent", "refusing", "not understanding"])
def test_a_collector_in_trouble_gets_few_attempts_and_every_drop_is_counted(status: int | None) -> None:
    script = """
    assert (dropped("tracing"), dropped("logs")) == (0, 0)
    started = time.monotonic()
    asyncio.run(run(1_000))
    configured.shutdown()
    print(json.dumps([dropped("tracing"), dropped("logs"), len(exports), time.monotonic() - started]))
    """
    with collector(status) as address:
        result = run(
            script, app=APP + TASKS, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_TIMEOUT="1",
            OTEL_METRICS_EXPORTER="none", OTEL_BSP_MAX_QUEUE_SIZE="200", OTEL_BLRP_MAX_QUEUE_SIZE="200",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="20", OTEL_BLRP_MAX_EXPORT_BATCH_SIZE="20",
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    spans, logs, exports, seconds = json.loads(result.stdout)
    assert (spans, logs) == (2_000, 3_000)
    # For each signal two at once, one in a pause of five seconds, one for the flush of the manager.
    assert exports <= 2 * (3 + seconds // 5)
    # The exporter of each signal may say that the end cuts its retries off, in the same words.
    said = [line for line in result.stderr.splitlines() if not line.startswith("Shutdown in progress")]
    assert 2 <= len(said) <= 8, "each kind of failure once"
    assert len(set(said)) == len(said)


def test_a_collector_that_is_well_gets_everything() -> None:
    script = """
    asyncio.run(run(1))
    configured.force_flush()
    print(dropped("tracing"), dropped("logs"))
    """
    with OtlpReceiver() as receiver:
        result = run(script, app=APP + TASKS, **receiver.environment)
    assert (result.returncode, result.stdout) == (0, "0.0 0.0\n"), result.stderr
    assert {"send nothing", "process nothing"} <= {span.name.replace("__main__.", "") for span in receiver.spans}


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_queue_size_that_makes_no_sense_is_refused(value: str) -> None:
    result = run('configure_telemetry(app, service_name="shop")', OTEL_BSP_MAX_QUEUE_SIZE=value)
    assert f"ConfigurationError: OTEL_BSP_MAX_QUEUE_SIZE must be a whole number above 0, not '{value}'" in result.stderr
