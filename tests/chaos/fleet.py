"""The server processes of a storm: forked from one that has imported everything, so that a new life is cheap."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import httpx

from tests.servers import free_port

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["uvicorn", "tests.chaos.preload"])

_PR_SET_PDEATHSIG = 1


APPLICATION = "tests.chaos.app:app"
CELERY_APPLICATION = "tests.chaos.app:celery_app"
CELERY_QUEUE = "storm"
WEB, WORKER, CELERY = "web", "worker", "celery"
CHILDREN = 2
"""Of each Celery worker: each runs one task at a time."""


def serve(port: int, environment: Mapping[str, str], log_path: str, kind: str) -> None:
    """Run the application, or a worker of it or of Celery, in this new process until it is told to end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    if kind == CELERY:
        from celery.bin.celery import celery

        options = ["--queues", CELERY_QUEUE, "--concurrency", str(CHILDREN), "--loglevel", "WARNING"]
        options += ["--without-gossip", "--without-mingle", "--hostname", f"{os.getpid()}@storm"]
        sys.exit(celery.main(["-A", CELERY_APPLICATION, "worker", *options], prog_name="celery"))
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

    @property
    def runners(self) -> list[int]:
        """The ids of the processes that run its tasks: its own, or those of the children of a Celery worker."""
        if not self.running:
            return []
        return _living_children(self.pid) if self.kind == CELERY else [self.pid]

    async def start(self, timeout: float = 60.0) -> None:
        """Start, and return once it answers; one that ends at once (its database is away) is started again."""
        deadline = time.monotonic() + timeout
        while True:
            self._process = _context.Process(
                target=serve, args=(self.port, self._environment, str(self.log_path), self.kind), daemon=True
            )
            self._process.start()
            await self._answer()
            if self.running:
                self.up = True
                return
            self.failed_starts += 1
            if time.monotonic() > deadline:
                tail = self.log_path.read_text(errors="replace")[-3000:] if self.log_path.exists() else ""
                raise RuntimeError(f"member {self.number} does not start:\n{tail}")
            await asyncio.sleep(0.2)

    async def _answer(self) -> None:
        """Wait until the new process answers, or has ended."""
        if self.kind == CELERY:
            while self.running and len(self.runners) < CHILDREN:
                await asyncio.sleep(0.02)
            return
        async with httpx.AsyncClient(base_url=self.url, timeout=2) as client:
            while self.running:
                try:
                    await client.get("/")
                except httpx.TransportError:
                    await asyncio.sleep(0.02)
                else:
                    return

    def signal_one(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one of the runners, and note that it has had trouble."""
        self.troubled_at[pid].append(time.monotonic())
        # It may have ended by itself.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and note that this process has had trouble."""
        self.up = False
        self.troubled_at[self.pid].append(time.monotonic())
        if self.running:
            os.kill(self.pid, number)

    async def one_ended(self, runners: Collection[int], timeout: float) -> bool:
        """Wait for the end of one of these runners; whether it came in time."""
        deadline = time.monotonic() + timeout
        while not (gone := set(runners) - set(self.runners)):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        for pid in gone:
            self.troubled_at[pid].append(time.monotonic())
        return True

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

    async def all_ended(self, runners: Collection[int], timeout: float) -> bool:
        """Wait for the end of each of these runners; whether it came in time."""
        deadline = time.monotonic() + timeout
        while not all(_has_ended(pid) for pid in runners):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        for pid in runners:
            self.troubled_at[pid].append(time.monotonic())
        return True

    async def stopped(self, timeout: float) -> bool:
        """Wait until a runner has stopped itself (SIGSTOP); whether that came in time."""
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            for pid in self.runners:
                if _state(pid) == "T":
                    self.up = self.kind == CELERY
                    self.troubled_at[pid].append(time.monotonic())
                    return True
            await asyncio.sleep(0.01)
        return False

    @property
    def exit_code(self) -> int | None:
        """How the last life ended."""
        return None if self._process is None else self._process.exitcode


def _living_children(pid: int) -> list[int]:
    """The ids of the children of a process, without those that have ended and were not noticed yet."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, thread.read_text().split())
    return [child for child in found if not _has_ended(child)]


def _has_ended(pid: int) -> bool:
    return _state(pid) in {"Z", "X", ""}


def _state(pid: int) -> str:
    """The letter of its state; nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
