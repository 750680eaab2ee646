"""A process whose collector is away, or hangs, tries each signal once when it ends, and waits for none of them long."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.procs import AppProcess
from tests.waiting import wait_until

NEVER = "3600000"
"""Milliseconds: nothing is exported before the end."""
SIGNALS = {"/v1/traces", "/v1/logs", "/v1/metrics"}


class BadCollector:
    """Counts the requests by path; closes each connection then, or never answers."""

    def __init__(self, *, hangs: bool) -> None:
        self.requests: Counter[str] = Counter()
        self.hangs = hangs
        self._kept: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Closing alone does not wake the thread.
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()
        for connection in self._kept:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._kept.append(connection)
            connection.settimeout(30)
            with suppress(OSError):
                self.requests[connection.recv(65_536).split()[1].decode()] += 1
            if not self.hangs:
                connection.close()


@pytest.fixture(params=["closes", "hangs"])
def collector(request: pytest.FixtureRequest) -> Iterator[BadCollector]:
    with BadCollector(hangs=request.param == "hangs") as running:
        yield running


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "interrupted"])
def test_the_end_of_a_process_makes_one_attempt_for_each_signal(
    stop: signal.Signals, collector: BadCollector, tmp_path: Path
) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        # Longer than this test waits for the end: only the limit of the exit ends a request that hangs.
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
        "OTEL_BSP_SCHEDULE_DELAY": NEVER,
        "OTEL_BLRP_SCHEDULE_DELAY": NEVER,
        "OTEL_METRIC_EXPORT_INTERVAL": NEVER,
        "APP_DB": str(tmp_path / "tasks.db"),
        "APP_RELEASE": str(tmp_path / "release"),
    }
    with AppProcess("tests.apps.otlp_app:app", tmp_path, env=environment) as app:
        task_id = httpx.post(f"{app.url}/signup", timeout=30).raise_for_status().json()["task_id"]

        def ended() -> bool:
            return bool(httpx.get(f"{app.url}/tasks/{task_id}", timeout=30).json()["status"] == "success")

        wait_until(ended, "the task to succeed")
        assert not collector.requests
        os.kill(app.pid, stop)
        wait_until(
            lambda: os.waitid(os.P_PID, app.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "the process to end"
        )
    assert set(collector.requests) <= SIGNALS
    assert collector.requests["/v1/traces"]
    # A connection that is closed is opened once more at once, which is no attempt with a pause.
    most = 1 if collector.hangs else 2
    assert max(collector.requests.values()) <= most, collector.requests
