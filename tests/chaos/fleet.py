"""The server processes of a storm: forked from one that has imported everything, so that a new life is cheap."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.servers import free_port

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["uvicorn", "tests.chaos.preload"])

_PR_SET_PDEATHSIG = 1


APPLICATION = "tests.chaos.app:app"
WEB, WORKER = "web", "worker"


def serve(port: int, environment: Mapping[str, str], log_path: str, kind: str) -> None:
    """Run the application, or a worker of it, in this new process until it is told to end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    signal.signal(signal.SIGUSR1, lambda *_: _say_where_tasks_wait())
    if kind == WORKER:
        from taskflow_otel.cli.worker import worker

        sys.exit(worker.main([APPLICATION, "--port", str(port)], standalone_mode=False))
    import uvicorn

    uvicorn.run(APPLICATION, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=3)


def _say_where_tasks_wait() -> None:
    """For a process that does not end: what each of its asyncio tasks awaits."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


class Member:
    """One place in the fleet: its processes come and go, its port stays."""

    def __init__(self, number: int, directory: Path, environment: Mapping[str, str], kind: str = WEB) -> None:
        self.number = number
        self.kind = kind
        self.port = free_port()
        self.armed = directory / f"armed-{number}"
        self.log_path = directory / f"member-{number}.log"
        self.up = False
        """It answers, and nothing is being done to it."""
        self.failed_starts = 0
        self.troubled_at: defaultdict[int, list[float]] = defaultdict(list)
        """When something was done to each process, by process id, on the monotonic clock."""
        self._environment = {**environment, "CHAOS_ARMED": str(self.armed)}
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the present, or of the last life."""
        return 0 if self._process is None or self._process.pid is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.exitcode is None

    async def start(self, timeout: float = 60.0) -> None:
        """Start, and return once it answers; one that ends at once (its database is away) is started again."""
        deadline = time.monotonic() + timeout
        while True:
            self._process = _context.Process(
                target=serve, args=(self.port, self._environment, str(self.log_path), self.kind), daemon=True
            )
            self._process.start()
            async with httpx.AsyncClient(base_url=self.url, timeout=2) as client:
                while self.running:
                    try:
                        await client.get("/")
                    except httpx.TransportError:
                        await asyncio.sleep(0.02)
                    else:
                        self.up = True
                        return
            self.failed_starts += 1
            if time.monotonic() > deadline:
                tail = self.log_path.read_text(errors="replace")[-3000:] if self.log_path.exists() else ""
                raise RuntimeError(f"member {self.number} does not start:\n{tail}")
            await asyncio.sleep(0.2)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and note that this process has had trouble."""
        self.up = False
        self.troubled_at[self.pid].append(time.monotonic())
        if self.running:
            os.kill(self.pid, number)

    async def ended(self, timeout: float) -> bool:
        """Wait for the end of the process; whether it came in time."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        self.up = False
        self.troubled_at[self.pid].append(time.monotonic())
        return True

    async def stopped(self, timeout: float) -> bool:
        """Wait until the process has stopped itself (SIGSTOP); whether that came in time."""
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                self.up = False
                self.troubled_at[self.pid].append(time.monotonic())
                return True
            await asyncio.sleep(0.01)
        return False

    @property
    def exit_code(self) -> int | None:
        """How the last life ended."""
        return None if self._process is None else self._process.exitcode
