"""`taskflow-otel demo`: it starts, says where it is once it answers, shows traces, and says why it cannot start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from examples.demo_traces import Traces
from taskflow_otel.cli import demo
from taskflow_otel.cli.main import main
from tests.servers import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def test_the_demo_says_where_it_is_once_it_answers_and_each_task_links_to_its_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taskflow_otel", "demo", "--port", str(free_port()), "--load", "20"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "DEMO_"))}
    with subprocess.Popen(
        command, cwd=tmp_path, env={**clean, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            base = address.removesuffix("/tasks/dashboard")
            # Without a wait: the line means that it answers.
            assert httpx.get(address).status_code == 200

            def ended() -> list[str]:
                found = httpx.get(f"{base}/tasks?status=success").json()
                return [task["trace_id"] for task in found if task["trace_id"]]

            wait_until(lambda: bool(ended()), "a task with a trace")
            template = httpx.get(f"{base}/tasks/session").json()["trace_url"]
            page = httpx.get(template.format(trace_id=ended()[-1]))
            assert (page.status_code, "process " in page.text, "<script" in page.text) == (200, True, False)
            assert httpx.get(template.format(trace_id="0" * 32)).status_code == 404
        finally:
            process.send_signal(signal.SIGTERM)
        # Once uvicorn has shut down in order, it raises the signal that it was sent again.
        assert process.wait(60) in (0, -signal.SIGTERM)
    assert (tmp_path / "demo.db").exists()


def test_a_port_that_is_taken_is_a_sentence_and_no_url_is_printed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "taskflow_otel", "demo", "--port", port, "--db", str(tmp_path / "demo.db")],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(rf"^taskflow-otel: 127\.0\.0\.1:{port} cannot be used", done.stderr, re.MULTILINE)


def test_without_the_server_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert main(["demo"]) == 2
    assert "pip install 'taskflow-otel[worker]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--load", "-1"], ["--load", "many"]])
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_an_unknown_trace_has_no_page() -> None:
    assert Traces().page("0" * 32) is None
