"""Real application processes for the tests: `uvicorn` on a free port, which a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.servers import free_port, spawn
from tests.waiting import LONG, wait_until

ROOT = Path(__file__).parent.parent


class AppProcess:
    """`uvicorn` serving `app` ("module:attribute") with its output in `directory`.

    `start` returns once it answers HTTP. After `kill` or `terminate` it can be started again, on the same port.
    """

    def __init__(
        self,
        app: str,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        cwd: Path = ROOT,
    ) -> None:
        self.app = app
        self.port = free_port()
        self.env = dict(env or {})
        self.arguments = list(arguments)
        self.cwd = cwd
        self.log_path = directory / "app.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """Everything the process has printed, over all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """Process id of the current life."""
        assert self._process is not None, "the app was not started"
        return self._process.pid

    def start(self, timeout: float = LONG) -> None:
        """Start, and return once the app answers; raises `RuntimeError` with its output when it ends instead."""
        assert self._process is None, "the app runs already"
        process = self._process = spawn(
            self.command(),
            cwd=self.cwd,
            log_path=self.log_path,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
        )
        wait_until(lambda: process.poll() is not None or self._answers(), f"{self.app} to answer", timeout=timeout)
        if process.poll() is not None:
            self._process = None
            raise RuntimeError(f"{self.app} ended with {process.returncode}:\n{self.output[-4000:]}")

    def command(self) -> Sequence[str]:
        """How the server is started."""
        command = [sys.executable, "-m", "uvicorn", self.app, "--host", "127.0.0.1", "--port", str(self.port)]
        return [*command, "--log-level", "warning", *self.arguments]

    def kill(self) -> None:
        """SIGKILL the process and all its workers, as the machine's out-of-memory killer would."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None

    def terminate(self, timeout: float = LONG) -> None:
        """Send SIGTERM and wait for the orderly end; raises `RuntimeError` when it was none.

        `subprocess.TimeoutExpired` is raised when the process is still there after `timeout` seconds.
        """
        assert self._process is not None, "the app was not started"
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout)
        self._process = None
        # Once uvicorn has shut down in order, it raises the signal that it was sent again.
        if code not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{self.app} ended with {code}:\n{self.output[-4000:]}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/", timeout=5).close()
        except urllib.error.HTTPError as answer:
            answer.close()
        except OSError:
            return False
        return True


class WorkerProcess(AppProcess):
    """`taskflow-otel worker` for an application; its port has the probes and the metrics."""

    def command(self) -> Sequence[str]:
        """How the worker is started."""
        return [sys.executable, "-m", "taskflow_otel", "worker", self.app, "--port", str(self.port), *self.arguments]
