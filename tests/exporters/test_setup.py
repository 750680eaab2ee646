"""`configure_telemetry` sets process-wide providers, so each case runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.otlp import OtlpReceiver

ROOT = Path(__file__).parents[2]

APP = """
import asyncio, httpx
from fastapi import FastAPI
async def request():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        (await client.get("/hello")).raise_for_status()
from taskflow_otel.exporters.setup import configure_telemetry
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
    import importlib.util, taskflow_otel.exporters.setup as setup
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
    from taskflow_otel.exporters.tracing import TASK_ID_KEY
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
import importlib.util, taskflow_otel.exporters.setup as setup
setup.find_spec = lambda name: None if name == "fastapi.telemetry" else importlib.util.find_spec(name)
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
